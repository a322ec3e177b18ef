"""The gateway at a glance: every route of the system. None is open to everybody but the provider's webhook."""

from __future__ import annotations

from millstream import Service

from . import http, operator_http

__all__ = ["gateway"]

gateway = Service("gateway")

OPERATOR = ("operator",)

gateway.post("/orders", idempotent=True, forwards_key=True, summary="Place an order")(http.place_order)
gateway.get("/orders", summary="Orders, newest first")(http.list_orders)
gateway.get("/orders/{order_id}", summary="One order")(http.get_order)
gateway.post("/orders/{order_id}/cancel", summary="Cancel an order")(http.cancel_order)
gateway.post("/orders/{order_id}/advance", roles=OPERATOR, summary="Bring an order one state on")(http.advance_order)

gateway.post("/payments", idempotent=True, forwards_key=True, summary="Pay an order")(http.create_payment)
gateway.get("/payments/{payment_id}", summary="One payment")(http.get_payment)
gateway.post("/payments/{payment_id}/refunds", idempotent=True, forwards_key=True, summary="Give money back")(
    http.create_refund
)
gateway.post("/webhooks/provider", public=True, summary="What the payment provider tells by itself")(
    http.receive_webhook
)

gateway.get("/notifications", summary="What the customer of an order was told")(http.list_notifications)

gateway.get("/ledger/trial-balance", roles=OPERATOR, summary="Debit and credit")(operator_http.trial_balance)
gateway.get("/ledger/export", roles=OPERATOR, summary="The journal as beancount text")(operator_http.export_ledger)
gateway.get("/payments/cases", roles=OPERATOR, summary="What a person has to look at")(operator_http.list_cases)
gateway.post("/payments/cases/{case_id}/resolve", roles=OPERATOR, summary="Close a case")(operator_http.resolve_case)
gateway.post("/reconciliation", roles=OPERATOR, summary="Compare the provider's book")(
    operator_http.start_reconciliation
)
gateway.get("/reconciliation/{run_id}", roles=OPERATOR, summary="A comparison")(operator_http.get_reconciliation)
gateway.get("/provider/book", roles=OPERATOR, summary="Who was charged, and how often")(operator_http.get_provider_book)
