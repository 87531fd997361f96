"""The same results in less time: kernels, fp8, a faster CORE. The core runs without it; lesson 12 is about it."""
