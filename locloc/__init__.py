__version__ = "0.1.0"

_DOOR = "localize", "load_localizer", "localizer_names"

def __getattr__(name): # importing locloc stays light: PyTorch comes when one of these is asked for
    if name in _DOOR:
        from . import localizers
        return getattr(localizers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

def __dir__():
    return [*globals(), *_DOOR]
