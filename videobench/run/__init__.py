"""What run_npu.py and run_gpu.py do."""
