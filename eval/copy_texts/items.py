"""The products that the texts speak of, as `recllm copy check` takes them."""

from __future__ import annotations

from typing import Any

NOW = "2025-11-05T09:00:00+00:00"

ITEMS: dict[str, dict[str, Any]] = {
    "buns": {
        "title": "Honey sandwich buns",
        "brand": "Hearth",
        "category": "Bakery > Bread",
        "price": "2.49",
        "currency": "USD",
        "attributes": {"size": "12 oz", "flavour": "honey", "pack": "8 count"},
    },
    "mug": {
        "title": "Blue stoneware mug",
        "brand": "Clayden",
        "category": "Kitchen > Mugs",
        "price": "14.00",
        "list_price": "18.00",
        "currency": "GBP",
        "attributes": {"material": "stoneware", "volume": "350 ml", "colour": "blue"},
    },
    "tea": {
        "title": "Loose leaf green tea",
        "brand": "Leafwell",
        "category": "Food > Tea",
        "price": "7.90",
        "currency": "EUR",
        "attributes": {"weight": "100 g", "origin": "Japan"},
    },
    "phones": {
        "title": "Over-ear wireless headphones",
        "brand": "Sonora",
        "category": "Electronics > Headphones",
        "price": "89.00",
        "list_price": "119.00",
        "currency": "USD",
        "attributes": {"battery": "30 hours", "colour": "black", "weight": "250 g"},
    },
    "lamp": {
        "title": "Oak desk lamp",
        "brand": "Lumenhaus",
        "category": "Home > Lighting",
        "price": "59.00",
        "currency": "EUR",
        "attributes": {"material": "oak", "power": "9 W", "height": "45 cm"},
    },
    "jeans": {
        "title": "Straight cut denim jeans",
        "brand": "Rivet & Row",
        "category": "Clothing > Jeans",
        "price": "64.00",
        "currency": "USD",
        "attributes": {"material": "cotton denim", "colour": "indigo", "fit": "straight"},
    },
    "shampoo": {
        "title": "Mild oat shampoo",
        "brand": "Plainly",
        "category": "Beauty > Hair care",
        "price": "6.50",
        "currency": "GBP",
        "attributes": {"volume": "250 ml", "ingredient": "oat", "scent": "unscented"},
    },
    "pack": {
        "title": "Roll-top canvas backpack",
        "brand": "Waymark",
        "category": "Bags > Backpacks",
        "price": "72.00",
        "currency": "USD",
        "attributes": {"material": "canvas", "volume": "20 l", "colour": "olive"},
    },
    "vitamin": {
        "title": "Vitamin C tablets",
        "brand": "Norrbo",
        "category": "Health > Supplements",
        "price": "9.99",
        "currency": "USD",
        "attributes": {"count": "60 tablets", "strength": "500 mg"},
    },
    "shirt": {
        "title": "纯棉长袖衬衫",
        "brand": "青禾",
        "category": "女装 > 衬衫",
        "price": "129.00",
        "currency": "CNY",
        "attributes": {"面料": "纯棉", "颜色": "白色"},
    },
    "longjing": {
        "title": "明前龙井绿茶",
        "brand": "山里人",
        "category": "食品 > 茶叶",
        "price": "168.00",
        "currency": "CNY",
        "attributes": {"净含量": "250克", "产地": "杭州"},
    },
    "earbuds": {
        "title": "无线蓝牙耳机",
        "brand": "乐声",
        "category": "数码 > 耳机",
        "price": "199.00",
        "list_price": "259.00",
        "currency": "CNY",
        "attributes": {"续航": "24小时", "颜色": "黑色"},
    },
    "cup": {
        "title": "不锈钢保温杯",
        "brand": "暖途",
        "category": "家居 > 水杯",
        "price": "79.00",
        "currency": "CNY",
        "attributes": {"材质": "不锈钢", "容量": "500毫升"},
    },
    "mask": {
        "title": "玻尿酸补水面膜",
        "brand": "清漾",
        "category": "美妆 > 面膜",
        "price": "59.00",
        "currency": "CNY",
        "attributes": {"规格": "10片", "成分": "玻尿酸"},
    },
    "rice": {
        "title": "东北长粒大米",
        "brand": "谷源",
        "category": "食品 > 粮油",
        "price": "45.90",
        "currency": "CNY",
        "attributes": {"净含量": "5公斤", "产地": "黑龙江"},
    },
    "honey": {
        "title": "洋槐蜂蜜",
        "brand": "花间集",
        "category": "食品 > 蜂蜜",
        "price": "38.00",
        "currency": "CNY",
        "attributes": {"净含量": "500克"},
    },
    "shoes": {
        "title": "儿童运动鞋",
        "brand": "小步",
        "category": "童鞋 > 运动鞋",
        "price": "149.00",
        "currency": "CNY",
        "attributes": {"鞋底": "橡胶", "颜色": "蓝色"},
    },
}

KNOWN_BRANDS = ("Oak Valley", "Brightwell", "Kettleby", "Nordalen", "云岭", "悦木", "Zephyr Audio")

RUNNING = {
    "type": "percent",
    "value": 20,
    "start": "2025-11-01T00:00:00+00:00",
    "end": "2025-11-12T00:00:00+00:00",
}
ENDED = {**RUNNING, "start": "2025-10-01T00:00:00+00:00", "end": "2025-11-01T00:00:00+00:00"}
COMING = {**RUNNING, "start": "2025-11-20T00:00:00+00:00", "end": "2025-11-30T00:00:00+00:00"}
OFFERS = {"running": RUNNING, "ended": ENDED, "coming": COMING}
