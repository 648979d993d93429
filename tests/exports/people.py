"""Files that say who people are and what they agreed to: Klaviyo, Mailchimp's three files, and a table of RFM."""

from __future__ import annotations

import random
from typing import Any

from exports import Export, csv_of, workbook_of
from recllm.base.schema import Table

KLAVIYO_COLUMNS = (
    "Email,Klaviyo ID,First Name,Last Name,Organization,Title,Phone Number,Address,Address 2,City,State / Region,"
    "Country,Zip Code,Latitude,Longitude,Source,IP Address,Email Marketing Consent,Email Marketing Consent Timestamp,"
    "SMS Marketing Consent,SMS Marketing Consent Timestamp,First Active,Last Active,Profile Created On,Date Added,"
    "Email Suppressions"
)
MAILCHIMP_COLUMNS = (
    "Email Address,First Name,Last Name,Address,Phone Number,Birthday,MEMBER_RATING,OPTIN_TIME,OPTIN_IP,CONFIRM_TIME,"
    "CONFIRM_IP,LATITUDE,LONGITUDE,GMTOFF,DSTOFF,TIMEZONE,CC,REGION,LAST_CHANGED,LEID,EUID,NOTES,TAGS"
)
MAILCHIMP_KINDS = {
    "subscribed": ("", "CONFIRM_TIME", True),
    "unsubscribed": (
        ",UNSUB_TIME,UNSUB_CAMPAIGN_TITLE,UNSUB_CAMPAIGN_ID,UNSUB_REASON,UNSUB_REASON_OTHER",
        "UNSUB_TIME",
        False,
    ),
    "cleaned": (",CLEAN_TIME,CLEAN_CAMPAIGN_TITLE,CLEAN_CAMPAIGN_ID", "CLEAN_TIME", False),
}


def exports(rng: random.Random) -> list[Export]:
    return [
        klaviyo(),
        *(mailchimp(kind) for kind in MAILCHIMP_KINDS),
        rfm(rng, "customer_id,recency,frequency,monetary", "rfm.csv"),
        rfm(rng, "CustomerID,R,F,M,Score", "rfm.xlsx"),
    ]


def klaviyo() -> Export:
    """One profile has a phone number alone; who never subscribed said nothing; some times are missing."""
    answers = ("SUBSCRIBED", "UNSUBSCRIBED", "NEVER_SUBSCRIBED")
    rows, consent = [], {}
    for number in range(12):
        email = "" if number == 5 else f"person{number}@example.com"
        by_mail, by_text = answers[number % 3], answers[number // 4]
        rows.append(
            {
                "Email": email,
                "Klaviyo ID": f"01H{number:023d}",
                "Title": "Dr., retired",
                "Phone Number": "'+15555550100",
                "City": "Portland",
                "State / Region": "Oregon",
                "Country": "United States",
                "Email Marketing Consent": by_mail,
                "Email Marketing Consent Timestamp": ""
                if number % 3 == 2
                else f"2024-02-{1 + number:02d} 10:00:00+00:00",
                "SMS Marketing Consent": by_text,
                "SMS Marketing Consent Timestamp": "" if number < 2 else "2024-03-01 10:00:00+00:00",
                "Profile Created On": "2023-01-01 00:00:00",
            }
        )
        for purpose, answer in (("email", by_mail), ("sms", by_text)):
            if email and answer != "NEVER_SUBSCRIBED":
                consent[email, purpose] = answer == "SUBSCRIBED"
    return Export(
        source="klaviyo-profiles",
        file_name="list_export.csv",
        content=b"\xef\xbb\xbf" + csv_of(KLAVIYO_COLUMNS, rows).encode(),
        accepted={Table.USERS: 11, Table.CONSENT: len(consent)},
        basics={"person3@example.com": {"country": "United States", "region": "Oregon", "city": "Portland"}},
        consent_from=("Email Marketing Consent", "SMS Marketing Consent"),
        consent=consent,
    )


def mailchimp(kind: str) -> Export:
    """Cells with quotes in them, as tags have, and times that are missing."""
    more_columns, column, granted = MAILCHIMP_KINDS[kind]
    rows: list[dict[str, Any]] = []
    consent = {}
    for number in range(8):
        email, is_timed = f"{kind}{number}@example.com", number != 3
        rows.append(
            {
                "Email Address": email,
                "MEMBER_RATING": 2 + number % 3,
                "OPTIN_TIME": "2023-05-01 08:00:00" if number % 2 else "",
                "CONFIRM_TIME": "2023-05-01 08:01:00",
                "CC": "US",
                "REGION": "CA",
                "LAST_CHANGED": "2024-01-01 00:00:00",
                "LEID": 90498395 + number,
                "EUID": "810826c56e",
                "TAGS": '"VIP","Blog"',
            }
            | {column: "2023-06-01 09:00:00" if is_timed else ""}
        )
        if is_timed or not granted:
            consent[email, "email"] = granted
    return Export(
        source=f"mailchimp-{kind}",
        file_name=f"{kind}_members_export_c5ed02d3c7.csv",
        content=csv_of(MAILCHIMP_COLUMNS + more_columns, rows).encode(),
        accepted={Table.USERS: 8, Table.CONSENT: len(consent)},
        basics={f"{kind}1@example.com": {"country": "US", "region": "CA"}},
        consent_from=(column,),
        consent=consent,
    )


def rfm(rng: random.Random, header: str, file_name: str) -> Export:
    names = header.split(",")
    rows = [
        dict(zip(names, (f"{10_000 + n}", str(n * 3), str(1 + n % 5), f"{20 + n}.50", "5"), strict=False))
        for n in rng.sample(range(40), 40)
    ]
    return Export(
        source="rfm",
        file_name=file_name,
        content=workbook_of(header, rows) if file_name.endswith(".xlsx") else csv_of(header, rows).encode(),
        accepted={Table.USERS: 40},
        basics={"10007": {"recency": "21", "frequency": "3", "monetary": "27.50"}},
    )
