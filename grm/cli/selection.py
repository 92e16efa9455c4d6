"""The user draws the box of a target."""

from ..boxes import Boxes, as_boxes
from ..crop import Image
from ..errors import BoxError


def select_box(frame: Image) -> Boxes:
    """Opens a window with a frame and returns the box (4,) that the user draws there.

    Raises:
        BoxError: there is no display, or the window was closed without a box.

    """
    import matplotlib.pyplot as plt  # half a second to import
    from matplotlib.backends import BackendFilter, backend_registry
    from matplotlib.widgets import RectangleSelector

    if plt.get_backend().lower() not in backend_registry.list_builtin(BackendFilter.INTERACTIVE):
        raise BoxError("no box given, and no display to draw one on: give --box x,y,w,h")
    ax = plt.subplots(layout="constrained")[1]
    ax.imshow(frame)
    ax.axis("off")
    ax.set_title("Draw a box around the target, then close the window")
    selector = RectangleSelector(ax, lambda press, release: None, useblit=True, interactive=True)
    plt.show()
    left, right, top, bottom = selector.extents
    if right <= left or bottom <= top:
        raise BoxError("no box was drawn")
    return as_boxes((left, top, right - left, bottom - top))
