"""`millstream load`: real baskets as orders through the gateway, and a verdict. Files in the order a basket meets them:

baskets → system (an `up` of its own) → connection → posting → settling → books → verdict
"""
