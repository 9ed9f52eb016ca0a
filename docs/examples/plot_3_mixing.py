"""
Between two networks
====================

Straight lines in weight space, without and with alignment of the end to the start by the whole symmetry group.
"""

import weightaug as wa

data = wa.datasets.digits()
networks = data.element

# %%
# Two digits of different classes. Beside the rows: how far the ends are apart, and how near the network half way is to
# the mean of both functions.

figure = wa.plot.show_path(networks[0], networks[3], steps=9)

# %%
# Two of the same class.

ones = (data.labels == 1).nonzero().flatten()
figure = wa.plot.show_path(networks[ones[0]], networks[ones[1]], steps=9)

# %%
# A network and an equivalent one: other weights, the same function. Without alignment the path leaves the digit, with
# it there is nothing to walk.

other = wa.SirenNegation()(wa.Permute()(networks[5]))
figure = wa.plot.show_path(networks[5], other, steps=9)
