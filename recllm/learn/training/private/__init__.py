"""Learning under user-level differential privacy: what is published hardly depends on any one user.

accounting   how much noise, and what a training reveals
descent      the loop: users drawn one by one, a gradient for each, shortened, summed, and noise added
examples     what the score reads of a user: their own past, what they said of themselves, the public catalogue
head         the scorer
"""
