"""The shop: order, payment and inventory as real processes, told through an outage twice, bare and guarded."""
