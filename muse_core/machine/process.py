"""What is set for a whole process, once, by what starts it: the command line, a flow, a worker. No library call does.

Who calls the library from Python and wants the same speed calls `own_process` first.
"""

import os
import sys

from muse_core.machine.heap import keep_freed_memory, share_one_heap


def own_process() -> None:
    """Set this process up for slides and networks: memory, threads and the habits of libraries. Changes no result."""
    # Large blocks of torch on huge pages: a sixth less time for networks on a CPU. Read when torch first makes one.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # cuFile, where PyTorch has brought it along, would leave a log of its complaints in the current folder.
    os.environ.setdefault("CUFILE_LOGFILE_PATH", os.devnull)
    # NNCF reports its use over the network unless it believes itself in a test; nothing here leaves the machine.
    os.environ.setdefault("NNCF_CI", "1")
    keep_freed_memory()
    share_one_heap()  # before any thread has a heap of its own
    # Slides are read by several processes or threads at once; OpenCV's own threads would only be in their way.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")  # read when OpenCV is loaded
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
