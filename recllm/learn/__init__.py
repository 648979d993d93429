"""What is learned from a shop's data.

`profiles`: a customer as text and vectors. `models`: scorer, sequence model and trees, as they are served.
`features`: what is counted of customers and items, and the indexes of items. `training`: how the models are fitted,
LoRA among them.
"""
