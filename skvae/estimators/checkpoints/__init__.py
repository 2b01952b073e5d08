"""Files from which an interrupted fit goes on."""
