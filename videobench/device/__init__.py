"""npu, cuda and cpu behind one value."""
