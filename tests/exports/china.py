"""Youzan's report of goods and JD's orders: GB18030, numbers kept as text by a tab, orders that were not paid."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exports import ExpectedEvent, Export, csv_of, liked
from recllm.base.schema import Table

YOUZAN_COLUMNS = (
    "订单号,外部订单号,订单商品状态,订单创建时间,买家付款时间,交易成功时间,商品名称,商品类型,商品目录,商品规格,规格编码,商品编码,"
    "商品单价,商品优惠方式,商品优惠后价格,商品数量,商品金额小计,店铺优惠（分摊）,商品实际成交金额,商品抵用积分数,商品留言,"
    "收货人/提货人,收货人手机号/提货人手机号,收货人省份,收货人城市,收货人地区,详细收货地址/提货地址,买家备注,商品发货状态,"
    "商品发货方式,商品退款状态,商品已退款金额,商家订单备注,周期购信息"
)
JD_COLUMNS = (
    "订单号,商品ID,商品名称,订购数量,支付方式,下单时间,京东价,订单金额,结算金额,余额支付,应付金额,订单状态,订单类型,下单帐号,"
    "客户姓名,客户地址,联系电话,订单备注,发票类型,发票抬头,发票内容,商家备注,商家备注等级（等级1-5为由高到低）,运费金额,"
    "付款确认时间,增值税发票,货号,订单完成时间,订单来源,订单渠道,送装服务,服务费,仓库id,仓库名称,商家SKUID"
)
TEAS = [
    ("明前龙井茶叶礼盒", "250克", "LJ-250", 268.0),
    ("明前龙井茶叶礼盒", "100克", "LJ-100", 118.0),
    ("青瓷茶杯", "", "", 58.0),
]
BEIJING = timedelta(hours=8)


def exports(rng: random.Random) -> list[Export]:
    return [youzan(rng), untimed_youzan(), jd(rng)]


def youzan(
    rng: random.Random,
    n_orders: int = 30,
    n_people: int = 8,
    start: datetime = datetime(2024, 3, 1, 1, tzinfo=UTC),
    every: timedelta = timedelta(hours=9),
    goods: Sequence[tuple[str, str, str, float]] = TEAS,
) -> Export:
    rows: list[dict[str, Any]] = []
    events, phones = [], set()
    for number in range(n_orders):
        at, person = start + number * every, number % n_people
        phone = f"1380000{person:04d}"
        has_person, status = number != 9, {3: "待付款", 4: "交易关闭", 5: "交易关闭"}.get(number, "交易完成")
        is_paid, local = number not in (3, 4), f"{at + BEIJING:%Y-%m-%d %H:%M:%S}"
        if has_person:
            phones.add(phone)
        for title, variant, code, price in rng.sample(liked(goods, person), 1 + number % 2):
            is_refunded = number == 7 or (number == 5 and is_paid)
            rows.append(
                {
                    "订单号": f"E2024030{number:014d}",
                    "订单商品状态": status,
                    "订单创建时间": local,
                    "买家付款时间": local if is_paid else "",
                    "交易成功时间": local if status == "交易完成" else "",
                    "商品名称": title,
                    "商品规格": variant,
                    "规格编码": code,
                    "商品编码": code and "LJ",
                    "商品单价": f"{price:.2f}",
                    "商品优惠后价格": f"{price - 8:.2f}",
                    "商品数量": 2,
                    "收货人/提货人": "王小明",
                    "收货人手机号/提货人手机号": f"\t{phone}" if has_person else "",
                    "收货人省份": "浙江省",
                    "收货人城市": "杭州市",
                    "买家备注": '请写"生日快乐"，谢谢\n尽快' if number == 2 else "",
                    "商品退款状态": "退款成功" if is_refunded else "",
                }
            )
            if is_paid and has_person:
                events.append(
                    ExpectedEvent(
                        user_id=phone,
                        item_id=code or title,
                        event="return" if is_refunded else "purchase",
                        at=at.isoformat(),
                        quantity=2,
                        price=price - 8,
                    )
                )
    return Export(
        source="youzan-orders",
        file_name="商品维度订单.csv",
        content=csv_of(YOUZAN_COLUMNS, rows).encode("gb18030"),
        accepted={Table.ITEMS: len(goods), Table.USERS: len(phones), Table.EVENTS: len(events)},
        events=tuple(events),
        items={"LJ-250": {"title": TEAS[0][0], "price": "268.00", "attributes": '{"variant": "250克"}'}},
        basics={"13800000001": {"region": "浙江省", "city": "杭州市"}},
        options={"shop_currency": "CNY"},
    )


def untimed_youzan() -> Export:
    """Without a time of the order: it stands in the order's number, also of an order that is on its way."""
    at, lines = datetime(2024, 3, 1, 1, 2, 3, tzinfo=UTC), []
    columns = [name for name in YOUZAN_COLUMNS.split(",") if name not in {"订单创建时间", "买家付款时间"}]
    for hour, state in enumerate(("交易完成", "已发货")):
        number = f"E{at + BEIJING + timedelta(hours=hour):%Y%m%d%H%M%S}115036122"
        cells = {"订单号": number, "订单商品状态": state, "商品名称": "青瓷茶杯", "商品单价": "58.00", "商品数量": "1"}
        cells |= {"收货人手机号/提货人手机号": "13800000001", "交易成功时间": "" if hour else "2024-03-04 10:00:00"}
        lines.append(cells)
    return Export(
        source="youzan-orders",
        file_name="goods_20240401.csv",
        content=csv_of(",".join(columns), lines).encode(),
        accepted={Table.ITEMS: 1, Table.USERS: 1, Table.EVENTS: 2},
        events=tuple(
            ExpectedEvent(
                user_id="13800000001",
                item_id="青瓷茶杯",
                event="purchase",
                at=(at + timedelta(hours=hour)).isoformat(),
            )
            for hour in range(2)
        ),
    )


def jd(
    rng: random.Random,
    n_orders: int = 25,
    n_people: int = 7,
    start: datetime = datetime(2024, 4, 1, 1, tzinfo=UTC),
    every: timedelta = timedelta(hours=11),
    goods: Sequence[tuple[str, str, str, float]] = TEAS,
) -> Export:
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_orders):
        at, account = start + number * every, f"jd_{number % n_people:x}茶友"
        status = {3: "等待付款", 4: "已取消", 5: "(删除)等待出库"}.get(number, "完成")
        is_paid, local = number not in (3, 4), f"{at + BEIJING:%Y-%m-%d %H:%M:%S}"
        for line, good in enumerate(rng.sample(liked(goods, number % n_people), 1 + number % 2)):
            (title, variant, _, price), item_id = good, f"1000{goods.index(good)}"
            rows.append(
                {
                    "订单号": f'="29{number:010d}"',
                    "商品ID": item_id,
                    "商品名称": f"{title} {variant}".strip(),
                    "订购数量": 1 + line,
                    "下单时间": local,
                    "京东价": f"{price:.2f}",
                    "订单状态": status,
                    "下单帐号": account,
                    "客户地址": "浙江杭州市西湖区",
                    "联系电话": "138****0000",
                    "付款确认时间": local if is_paid else "",
                    "货号": "LJ",
                }
            )
            if is_paid:
                event = "return" if number == 5 else "purchase"
                events.append(
                    ExpectedEvent(
                        user_id=account,
                        item_id=item_id,
                        event=event,
                        at=at.isoformat(),
                        quantity=1 + line,
                        price=price,
                    )
                )
    return Export(
        source="jd-orders",
        file_name="订单信息.csv",
        content=csv_of(JD_COLUMNS, rows).encode("gb18030"),
        accepted={Table.ITEMS: len(goods), Table.USERS: n_people, Table.EVENTS: len(events)},
        events=tuple(events),
        items={"10001": {"title": "明前龙井茶叶礼盒 100克", "price": "118.00"}},
        options={"shop_currency": "CNY"},
    )
