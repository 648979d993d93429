"""Names of columns: what each table understands, under which other names, and what it must not take in."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import chain

from recllm.schema import Table

REQUIRED: Mapping[Table, tuple[str, ...]] = {
    Table.EVENTS: ("user_id", "item_id", "timestamp"),
    Table.ITEMS: ("item_id", "title"),
    Table.USERS: ("user_id",),
    Table.CONSENT: ("user_id", "purpose", "granted", "timestamp"),
}
"""The columns that a table cannot do without."""

FIELDS: Mapping[Table, tuple[str, ...]] = {
    **REQUIRED,
    Table.EVENTS: (
        *REQUIRED[Table.EVENTS], "order", "event_id", "event", "quantity", "price", "currency", "basket_id", "value",
        "request_id", "position", "model_version",
    ),
    Table.ITEMS: (
        *REQUIRED[Table.ITEMS], "category", "brand", "description", "price", "currency", "available", "attributes",
        "available_until",
    ),
}  # fmt: skip
"""All columns of each table."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "user_id": (
        "user", "uid", "customer", "customer_id", "customer_no", "customer_number", "client_id", "member_id",
        "visitor_id", "buyer_id", "shopper_id", "household_id", "account_id", "用户id", "用户编号", "用户", "用户号",
        "会员id", "会员编号", "会员号", "客户id", "客户编号", "客户号", "客户代码", "顾客id", "顾客编号", "买家id",
        "kunde", "kunden_id", "kundennr", "kundennummer", "kdnr", "klant", "klantnr", "klantnummer", "klant_id",
        "id_client", "numero_client", "numéro_client", "code_client", "cliente", "id_cliente", "cliente_id",
        "codigo_cliente", "código_cliente", "codice_cliente",
    ),
    "item_id": (
        "item", "product", "product_id", "product_code", "product_no", "sku", "sku_id", "article_id", "article_no",
        "stock_code", "goods_id", "material_no", "商品id", "商品编号", "商品编码", "商品代码", "商品号", "产品id",
        "产品编号", "产品编码", "产品代码", "货号", "库存代码", "宝贝id", "物品id",
        "artikelnr", "artikelnummer", "artikel_id", "art_nr", "produkt_id", "produktnummer", "produktnr", "productnr",
        "productnummer", "code_article", "ref_article", "id_article", "codigo_articulo", "código_artículo",
        "id_producto", "codigo_producto", "código_producto", "codice_articolo", "codice_prodotto",
    ),
    "timestamp": (
        "time", "date", "datetime", "date_time", "at", "ts", "event_time", "event_timestamp", "event_date",
        "created_at", "order_date", "order_time", "invoice_date", "purchase_date", "transaction_date",
        "transaction_time", "transaction_timestamp", "unix_timestamp", "vtime", "时间", "日期", "时间戳", "下单时间",
        "购买时间", "订单时间", "订单日期", "发票日期", "交易时间", "交易日期", "行为时间", "发生时间", "创建时间",
        "datum", "bestelldatum", "auftragsdatum", "kaufdatum", "zeitpunkt", "besteldatum", "aankoopdatum", "tijdstip",
        "date_commande", "date_de_commande", "date_achat", "fecha", "fecha_pedido", "fecha_compra", "data_ordine",
        "data_acquisto",
    ),
    "order": (
        "step", "step_no", "step_number", "sequence", "seq", "sequence_no", "sequence_number", "event_order", "顺序",
        "次序", "步骤", "先后",
    ),
    "event_id": ("eventid", "event_uuid", "事件id", "事件编号", "行为id"),
    "event": (
        "event_type", "event_name", "action", "action_type", "behavior", "behaviour", "behavior_type", "interaction",
        "interaction_type", "事件", "事件类型", "行为", "行为类型", "动作", "操作类型",
    ),
    "quantity": (
        "qty", "amount_of_items", "units", "count", "num", "pieces", "数量", "件数", "购买数量", "商品数量",
        "menge", "anzahl", "stückzahl", "stueckzahl", "aantal", "quantité", "quantite", "qté", "qte", "cantidad",
        "quantità", "quantita",
    ),
    "price": (
        "unit_price", "item_price", "sale_price", "price_per_unit", "单价", "价格", "售价", "商品单价", "商品价格",
        "preis", "einzelpreis", "stückpreis", "stueckpreis", "prijs", "stukprijs", "prix", "prix_unitaire", "precio",
        "precio_unitario", "prezzo", "prezzo_unitario",
    ),
    "currency": (
        "currency_code", "ccy", "币种", "货币", "货币代码",
        "währung", "waehrung", "devise", "moneda", "valuta",
    ),
    "basket_id": (
        "basket", "order", "order_id", "order_no", "order_number", "invoice", "invoice_no", "invoice_number",
        "invoice_id", "transaction_id", "transaction_no", "receipt_id", "session_id", "订单id", "订单号", "订单编号",
        "发票号", "发票编号", "发票号码", "购物篮id", "交易号", "小票号",
        "bestellung", "bestellnummer", "bestellnr", "auftragsnummer", "auftragsnr", "belegnummer", "rechnungsnummer",
        "bestelling", "bestelnr", "bestelnummer", "ordernr", "commande", "numero_commande", "numéro_commande",
        "pedido", "numero_pedido", "número_pedido", "ordine", "numero_ordine",
    ),
    "value": ("rating", "stars", "score", "评分", "评价", "星级"),
    "request_id": ("请求id",),
    "position": ("rank", "slot", "位置"),
    "model_version": ("模型版本",),
    "title": (
        "name", "item_name", "product_name", "product_title", "item_title", "goods_name", "标题", "商品标题",
        "商品名称", "商品名", "产品名称", "产品名", "名称", "商品描述",
        "bezeichnung", "artikelbezeichnung", "produktname", "artikelname", "titel", "omschrijving", "productnaam",
        "désignation", "designation", "libellé", "libelle", "nom_produit", "nombre_producto", "nome_prodotto",
        "titolo",
    ),
    "category": (
        "categories", "category_path", "category_name", "product_category", "item_category", "cat", "类目", "分类",
        "类别", "品类", "商品类目", "商品分类", "商品类别",
        "kategorie", "warengruppe", "categorie", "catégorie", "categoría", "categoria",
    ),
    "brand": (
        "brand_name", "manufacturer", "品牌", "品牌名称", "商品品牌",
        "marke", "hersteller", "merk", "marque", "marca",
    ),
    "description": (
        "desc", "item_description", "product_description", "details", "描述", "详情", "商品详情", "产品描述",
        "beschreibung", "descripción", "descripcion", "descrizione", "beschrijving",
    ),
    "available": (
        "in_stock", "is_available", "availability", "active", "有货", "是否有货", "在售", "是否在售", "上架",
        "verfügbar", "verfuegbar", "lieferbar", "auf_lager", "beschikbaar", "en_stock", "disponible", "disponibile",
    ),
    "attributes": ("attrs", "properties", "属性", "商品属性"),
    "available_until": ("available_to", "on_sale_until", "off_sale_at", "valid_until", "下架时间", "下架日期"),
    "purpose": ("consent_purpose", "用途", "目的", "同意用途"),
    "granted": ("consent", "given", "is_granted", "opt_in", "同意", "是否同意"),
}  # fmt: skip

OUTSIDE_SHOPS: Mapping[str, tuple[str, ...]] = {
    "user_id": (
        "viewer_id", "listener_id", "reader_id", "subscriber_id", "learner_id", "student_id", "观众id", "读者id",
        "学员id", "学员编号", "学生id", "学号",
    ),
    "item_id": (
        "movie_id", "film_id", "video_id", "series_id", "show_id", "track_id", "song_id", "podcast_id", "news_id",
        "story_id", "content_id", "course_id", "电影id", "影片id", "影片编号", "视频id", "歌曲id", "文章id", "文章编号",
        "新闻id", "内容id", "课程", "课程id", "课程编号", "课程号",
    ),
    "timestamp": (
        "watched_at", "played_at", "viewed_at", "read_at", "enrolled_at", "enrolment_date", "enrollment_date",
        "观看时间", "播放时间", "阅读时间", "报名时间", "选课时间", "学习时间",
    ),
    "title": (
        "movie_title", "film_title", "video_title", "song_title", "track_name", "headline", "article_title",
        "news_title", "course_name", "course_title", "片名", "电影名", "影片名称", "歌名", "文章标题", "新闻标题",
        "课程名称", "课程名",
    ),
    "category": ("genre", "genres", "topic", "topics", "subject", "题材", "栏目", "学科"),
    "brand": ("studio", "publisher", "school", "provider", "出品方", "出版社", "来源", "机构", "学校"),
}  # fmt: skip
"""Names of media, news and education. They count where no name of `ALIASES` is there: a bookshop's file has a category
and a genre, a brand and a publisher."""

BASICS: Mapping[str, tuple[str, ...]] = {
    "age": ("age_group", "age_range", "age_band", "年龄", "年龄段", "alter", "âge", "edad", "leeftijd", "età"),
    "gender": ("sex", "性别", "geschlecht", "sexe", "sexo", "geslacht", "sesso"),
    "country": ("country_code", "country_name", "国家", "国家地区", "land", "pays", "país", "pais", "paese"),
    "region": ("state", "province", "county", "省", "省份", "地区"),
    "city": ("town", "城市", "stadt", "ort", "ville", "ciudad", "stad", "città"),
    "language": ("lang", "locale", "语言", "sprache", "langue", "idioma", "taal", "lingua"),
    "income": ("income_range", "income_band", "household_income", "收入", "收入段"),
    "occupation": ("job", "profession", "职业"),
    "education": ("education_level", "学历", "教育程度"),
    "marital_status": ("marital", "婚姻状况", "婚否"),
    "home_ownership": ("homeowner", "住房"),
    "household_size": ("family_size", "家庭人数"),
    "household_comp": ("household_composition", "household_type", "家庭构成"),
    "kids_count": ("kids", "children", "number_of_children", "孩子数", "子女数"),
    "membership": ("member_level", "tier", "loyalty_tier", "会员等级"),
    "segment": ("customer_segment", "客户群"),
    "interests": ("interest", "hobbies", "兴趣", "爱好"),
}
"""Plain facts of a person that are kept without a map, under these names."""

SPECIAL_CATEGORIES: tuple[str, ...] = (
    "health", "health_status", "disease", "diagnosis", "disability", "medication", "pregnant", "pregnancy", "hiv",
    "religion", "religious", "religious_belief", "faith", "ethnicity", "ethnic_group", "ethnic_origin", "race",
    "political_opinion", "political_view", "political_party", "politics", "party_membership", "union",
    "trade_union", "union_membership", "sexual_orientation", "sexuality", "sex_life", "genetic", "genetic_data",
    "biometric", "fingerprint", "criminal_record", "健康", "健康状况", "疾病", "病史", "残疾", "怀孕", "宗教",
    "宗教信仰", "信仰", "民族", "种族", "政治面貌", "政治观点", "党派", "工会", "性取向", "基因", "生物识别",
    "犯罪记录", "konfession", "krankheit", "diagnose", "gesundheit", "behinderung", "schwangerschaft", "schwanger",
    "gewerkschaft", "ethnie", "herkunft", "santé", "maladie", "handicap", "grossesse", "syndicat", "religión", "salud",
    "enfermedad", "discapacidad", "embarazo", "sindicato", "etnia", "geloof", "gezondheid", "ziekte", "zwanger",
    "religione", "salute", "malattia", "gravidanza",
)  # fmt: skip
"""Columns about a person that the law protects specially. They are refused unless the map declares them."""


def instead_of_times(fills: Mapping[str, str | None]) -> dict[str, str | None]:
    """Field -> column of a log, where "order" and "timestamp", or "basket_id", could be meant by the same file.

    A column named order beside times is the number of an order, as shops write it; without times it is the step of each
    person's history, and no basket.
    """
    settled = dict(fills)
    if settled.get("timestamp") is not None:
        settled["order"] = None
    elif settled.get("order") is not None and settled.get("basket_id") == settled["order"]:
        settled["basket_id"] = None
    return settled


def is_required(field: str, table: Table, fills: Mapping[str, str | None]) -> bool:
    """Whether a load needs the field, given the columns of the others: a log that says the order needs no time."""
    return field in REQUIRED[table] and not (field == "timestamp" and fills.get("order") is not None)


def normal(name: str) -> str:
    """A column name without case, width, spaces and punctuation: "User Id", "user_id" and "ＵＳＥＲ-ID" are equal."""
    return re.sub(r"[\s_\-./#:()\[\]'\"]+", "", unicodedata.normalize("NFKC", name).casefold())


def is_special(name: str) -> bool:
    return normal(name) in _SPECIAL


def candidates(field: str) -> frozenset[str]:
    """The normalised names under which a field or basic is understood, its own included."""
    return frozenset(normal(n) for n in (field, *ALIASES.get(field, ()), *BASICS.get(field, ())))


def named_so(field: str, by_normal: Mapping[str, str]) -> list[str]:
    """The columns that are called like a field: as a shop calls it, or else as others do. Keys are normalised."""
    for names in (candidates(field), _outside_shops(field)):
        if columns := [column for name, column in by_normal.items() if name in names]:
            return columns
    return []


def _outside_shops(field: str) -> frozenset[str]:
    return frozenset(normal(n) for n in OUTSIDE_SHOPS.get(field, ()))


def known_count(names: Iterable[str]) -> int:
    """How many of these header names mean something to some table."""
    return sum(normal(name) in _KNOWN for name in names)


def nearest(field: str, columns: Iterable[str]) -> list[str]:
    """Up to three columns that may have been meant."""
    by_normal = {normal(column): column for column in columns}
    names = sorted(candidates(field) | _outside_shops(field), key=lambda name: name != normal(field))
    close = chain.from_iterable(difflib.get_close_matches(name, by_normal, n=3, cutoff=0.6) for name in names)
    return [by_normal[name] for name in dict.fromkeys(close)][:3]


_SPECIAL = frozenset(normal(n) for n in SPECIAL_CATEGORIES)
_KNOWN = frozenset(n for field in (*ALIASES, *BASICS) for n in candidates(field) | _outside_shops(field))
