from muse_core.infer.gpu import GpuUse


def test_without_a_gpu_nobody_says_how_busy_it_was():
    with GpuUse("cpu") as use:
        pass
    assert use.share is None
