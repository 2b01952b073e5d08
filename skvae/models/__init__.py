"""The models, one paper and one small file each: tensors in, tensors out, no loops."""
