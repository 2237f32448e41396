"""Files: tables, tensors, npz, the journal; the only package that writes them."""
