"""One module for each kind of image source; :mod:`pmae.data.load` chooses among them."""
