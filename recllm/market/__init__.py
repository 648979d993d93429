"""Marketing on top of recommendations.

`propensity`: who will buy, leave or redeem, and on whom an offer has an effect. `audiences`: who to reach. `occasions`:
when. `experiments`: what made a difference. `adcopy`: ad text and its checks. `batch`: answers for all customers.
`campaigns`: audience, offer, texts, approval and outcome in one folder.
"""
