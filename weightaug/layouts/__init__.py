"""Readers for the layouts in which public collections of networks are distributed.

Collections of one file a network (:func:`dwsnets`, :func:`nfn`) are listed here and read by
:func:`weightaug.io.convert`; collections of one large file (:func:`neural_field_arena`, :func:`small_cnn_zoo`) are read
as elements. :func:`wild_park` reads networks of many architectures, one by one. No reader runs code that a file holds.
"""

from weightaug.layouts.arena import neural_field_arena
from weightaug.layouts.cnn_zoo import Zoo, small_cnn_zoo
from weightaug.layouts.listings import Listing, dwsnets, nfn
from weightaug.layouts.wild_park import WildNetwork, wild_park

__all__ = ["Listing", "WildNetwork", "Zoo", "dwsnets", "neural_field_arena", "nfn", "small_cnn_zoo", "wild_park"]
