"""The commands of ``python -m pmae``, one module each. Options are read by tyro; the work is done by the library."""
