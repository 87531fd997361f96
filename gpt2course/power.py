"""What the GPUs draw from the mains, read from the driver's own library, for the energy of a run. Lesson 14.

NVML (libnvidia-ml, part of every NVIDIA driver) answers in well under a millisecond; `nvidia-smi` starts a program.
"""

import ctypes


class Meter:
    """Watts of the GPUs that torch sees on this machine, all together. `watts` gives None without NVML, as on a CPU.

    uuids: of the GPUs, as `torch.cuda.get_device_properties(i).uuid` gives them; numbers would change with
    CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, uuids, library: str = "libnvidia-ml.so.1"):
        self.handles, self.nvml = [], None
        try:
            nvml = ctypes.CDLL(library)
            if nvml.nvmlInit_v2() == 0:
                for uuid in uuids:
                    handle = ctypes.c_void_p()
                    if nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode(), ctypes.byref(handle)) == 0:
                        self.handles.append(handle)
                self.nvml = nvml if len(self.handles) == len(uuids) else None
        except (OSError, AttributeError):  # no driver, or one without these functions
            pass

    def watts(self) -> float | None:
        """The power at this moment (the driver averages over up to a second), or None where one GPU does not tell."""
        if not (self.nvml and self.handles):
            return None
        total, milliwatts = 0, ctypes.c_uint()
        for handle in self.handles:
            if self.nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(milliwatts)) != 0:
                return None
            total += milliwatts.value
        return total / 1000
