"""Marketing on top of recommendations: who will do what (`propensity`), who to reach (`audiences`) and when
(`occasions`), in which words (`adcopy`), what helped (`experiments`), and all of it in `campaigns`.
"""
