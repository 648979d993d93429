"""Taobao and Tmall: order lines with and without buyers, and orders, as Qianniu writes them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from exports import ExpectedEvent, Export, csv_of, liked, workbook_of
from recllm.base.schema import Table

LINE_COLUMNS = (
    "子订单编号,主订单编号,标题,价格,购买数量,外部系统编号,商品属性,套餐信息,备注,订单状态,商家编码,支付单号,买家应付货款,"
    "买家实际支付金额,退款状态,退款金额,订单创建时间,订单付款时间,商品ID,分阶段订单信息,主订单备注,主订单买家留言,发货时间,"
    "物流单号,物流公司,是否赔付,赔付金额"
)
ORDER_COLUMNS = (
    "订单编号,买家会员名,买家支付宝账号,支付单号,买家应付货款,买家应付邮费,买家支付积分,总金额,返点积分,买家实际支付金额,"
    "买家实际支付积分,订单状态,买家留言,收货人姓名,收货地址 ,运送方式,联系电话 ,联系手机,订单创建时间,"
    "订单付款时间 ,宝贝标题 ,宝贝种类 ,物流单号 ,物流公司,订单备注,宝贝总数量,店铺Id,店铺名称,"
    "订单关闭原因,卖家服务费,买家服务费,发票抬头,是否手机订单"
)
GOODS = [
    ("纯棉短袖衬衫男夏季薄款", "颜色分类:白色;尺码:M", "CS-M", "610000000001", 129.0),
    ("纯棉短袖衬衫男夏季薄款", "颜色分类:白色;尺码:L", "CS-L", "610000000001", 129.0),
    ("北欧简约陶瓷马克杯", "null", "", "620000000002", 39.9),
]
ASSORTMENT = [
    *GOODS[:2],
    ("亚麻休闲长裤男士宽松", "颜色分类:卡其;尺码:L", "LK-L", "610000000003", 159.0),
    ("羊毛开衫女秋季外套", "颜色分类:灰色;尺码:M", "YM-M", "610000000004", 269.0),
    GOODS[2],
    ("日式手绘陶瓷餐碗", "规格:4.5英寸", "CW-45", "620000000005", 25.8),
    ("青花瓷茶壶家用", "null", "", "620000000006", 88.0),
    ("竹制茶盘小号", "规格:小号", "ZP-S", "620000000007", 65.0),
]
BEIJING = timedelta(hours=8)


def exports(rng: random.Random) -> list[Export]:
    return [
        lines(rng, "ExportOrderDetailList202405.csv", buyer="买家会员名"),
        lines(rng, "宝贝订单明细.xlsx", buyer="买家昵称"),
        lines(rng, "ExportOrderDetailList202406.csv", buyer=""),
        orders(rng),
    ]


def lines(
    rng: random.Random,
    file_name: str,
    *,
    buyer: str,
    n_orders: int = 30,
    n_people: int = 9,
    start: datetime = datetime(2024, 5, 1, 2, tzinfo=UTC),
    every: timedelta = timedelta(hours=5),
    goods: Sequence[tuple[str, str, str, str, float]] = GOODS,
) -> Export:
    """One line is refunded, one order closed after it was paid, one before, one not paid yet."""
    is_workbook = file_name.endswith(".xlsx")
    rows: list[dict[str, Any]] = []
    events, people = [], set()
    for number in range(n_orders):
        at, member = start + number * every, f"小鱼_{number % n_people}"
        order = f"21000000000000{number:05d}"
        people.add(member)
        status = {3: "交易关闭", 4: "交易关闭", 6: "等待买家付款"}.get(number, "交易成功")
        is_paid, local = number not in (4, 6), f"{at + BEIJING:%Y-%m-%d %H:%M:%S}"
        picked = rng.sample(liked(goods, number % n_people), 1 + number % 2)
        for line, (title, variant, code, listing, price) in enumerate(picked):
            refund = "退款成功" if number == 8 and line == 0 else "没有申请退款"
            ids = {"子订单编号": f"{order}{line}", "主订单编号": order}
            rows.append(
                {name: value if is_workbook else f'="{value}"' for name, value in ids.items()}
                | {
                    "标题": title,
                    "价格": f"{price:.2f}",
                    "购买数量": str(1 + line),
                    "外部系统编号": code or "null",
                    "商品属性": variant,
                    "套餐信息": "null",
                    "备注": "请尽快发货，谢谢" if number == 2 else "null",
                    "订单状态": status,
                    "商家编码": code or "null",
                    "支付单号": f"'{order}",
                    "退款状态": refund,
                    "退款金额": "无退款申请",
                    "订单创建时间": local,
                    "订单付款时间": local if is_paid else "",
                    "商品ID": listing if is_workbook else f"\t{listing}",
                    "物流单号": "No:78000000",
                    **({buyer: member} if buyer else {}),
                }
            )
            if is_paid and buyer:
                is_return = refund == "退款成功" or status == "交易关闭"
                events.append(
                    ExpectedEvent(
                        user_id=member,
                        item_id=code or listing,
                        event="return" if is_return else "purchase",
                        at=at.isoformat(),
                        quantity=1 + line,
                        price=price,
                        basket_id=order,
                    )
                )
    header = LINE_COLUMNS + (f",{buyer}" if buyer else "")
    if is_workbook:  # as the console names them since it writes workbooks
        newer = {"标题": "商品标题", "价格": "商品价格", "买家实际支付金额": "买家实付金额", "备注": "商家备注"}
        header = ",".join(newer.get(name, name) for name in header.split(","))
        rows = [{newer.get(name, name): value for name, value in row.items()} for row in rows]
    accepted = {Table.ITEMS: len(goods)}
    return Export(
        source="taobao-order-lines" if buyer else "taobao-order-lines-without-buyers",
        file_name=file_name,
        content=workbook_of(header, rows) if is_workbook else csv_of(header, rows).encode("gb18030"),
        accepted=accepted | {Table.EVENTS: len(events), Table.USERS: len(people)} if buyer else accepted,
        events=tuple(events),
        items={
            "CS-M": {
                "title": GOODS[0][0],
                "price": "129.00",
                "currency": "CNY",
                "attributes": '{"variant": "颜色分类:白色;尺码:M"}',
            },
            "620000000002": {"title": GOODS[2][0], "attributes": "{}"},
        },
        options={"shop_currency": "CNY"},
    )


def orders(
    rng: random.Random,
    n_orders: int = 12,
    n_people: int = 5,
    start: datetime = datetime(2024, 5, 2, 3, tzinfo=UTC),
    every: timedelta = timedelta(minutes=1),
    goods: Sequence[tuple[str, str, str, str, float]] = GOODS,
) -> Export:
    """Names of columns with a space behind them; an order of two products, and two that were not bought."""
    rows: list[dict[str, Any]] = []
    events = []
    for number in range(n_orders):
        at, person = start + number * every, number % n_people
        title, *_, price = rng.choice(liked(goods, person))
        kinds, status = (
            (2, "交易成功") if number == 1 else (1, {5: "交易关闭", 7: "等待买家付款"}.get(number, "交易成功"))
        )
        quantity = 1 + number % 3
        rows.append(
            {
                "订单编号": f'="33000000000000{number:05d}"',
                "买家会员名": f"tb{person}",
                "买家应付货款": f"{price * quantity:.2f}",
                "买家应付邮费": "0",
                "订单状态": status,
                "收货地址 ": "浙江省 杭州市 西湖区 文三路1号，楼下",
                "联系手机": "'13800000000",
                "订单创建时间": f"{at + BEIJING:%Y/%m/%d %H:%M}",
                "订单付款时间 ": f"{at + BEIJING:%Y/%m/%d %H:%M}" if number != 7 else "",
                "宝贝标题 ": f"{title}，{GOODS[0][0]}" if kinds == 2 else title,
                "宝贝种类 ": kinds,
                "宝贝总数量": quantity,
            }
        )
        if kinds == 1 and number != 7:
            events.append(
                ExpectedEvent(
                    user_id=f"tb{person}",
                    item_id=title,
                    event="return" if number == 5 else "purchase",
                    at=at.isoformat(),
                    quantity=quantity,
                    price=round(price * quantity, 2) / quantity,
                )
            )
    return Export(
        source="taobao-orders",
        file_name="ExportOrderList202405.csv",
        content=csv_of(ORDER_COLUMNS, rows).encode("gb18030"),
        accepted={Table.ITEMS: len({title for title, *_ in goods}), Table.USERS: n_people, Table.EVENTS: len(events)},
        events=tuple(events),
        items={GOODS[0][0]: {"title": GOODS[0][0]}},
        options={"shop_currency": "CNY"},
    )
