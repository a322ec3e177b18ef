"""The kernel: what happens to an event between two commits. Files in the order a message meets them:

tx → outbox → relay → claims → batch → inbox → lanes → parking → dead_letters → effects → timers → sequences
"""
