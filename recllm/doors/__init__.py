"""Where people and programs come in.

`privacy`: a customer's rights over all that is kept. `service`: HTTP. `console`: web
pages. `start`: from a shop's export to lists. `cli`: the command line. A door reads a question, asks the layers above
and words the answer; it computes nothing.
"""
