"""Texts of our own with personal data in them, and texts that look so and hold none. The cases that the rules are
judged by are others: `eval/personal_data/cases.jsonl`, by people who have not read the rules."""

from __future__ import annotations

from recllm.text.personal_data import PersonalDataKind as Kind

POSITIVES: tuple[tuple[Kind, str, str], ...] = tuple(
    (kind, text.replace("<<", "").replace(">>", ""), text.split("<<")[1].split(">>")[0])
    for kind, lines in {
        Kind.EMAIL: """
Reach me at <<jane.doe+orders@mail.example.co.uk>> please
e-mail: <<o'connor@firm.ie>>
SEND TO <<JANE_DOE@EXAMPLE.COM>>!
联系邮箱：<<li.wei@163.com>>。
(<<bob@corp.io>>)
<<name(at)domain(dot)de>>
write to <<jane [at] shop [dot] com>>
<<jane at example dot com>>
<<ａｂｃ＠ｅｘａｍｐｌｅ．ｃｏｍ>>
<<jörg@müller.de>> schreibt
mailto:<<ann@xn--bcher-kva.example>>
订单问题发<<ming_99@foxmail.com>>谢谢
the gift is for <<a.b-c@d-e.org>>, not me
""",
        Kind.PHONE: """
<<(212) 555-0187>>
call <<212.555.0187>> after six
<<+1 (212) 555-0187 ext. 22>>
toll free <<1-800-555-0199>>
<<020 7946 0123>> is our landline
(<<0161) 496 0123>>
mobile <<07700 900 123>>
<<+44 7700 900123>>
<<0044 7700 900123>>
Tel. <<030 901820>>
<<0171-1234567>>
<<+49 (0)171 1234567>>
<<(030) 12 34 56 78>>
<<089/12345678>>
<<01.42.68.53.00>>
<<+33 1 42 68 53 00>>
<<06-12-34-56-78>>
tel: <<612 345 678>>
<<+34 612 345 678>>
<<+39 06 6982 1234>>
cell <<347 123 4567>>
<<+81-3-1234-5678>>
<<090-1234-5678>>
<<0120-123-456>>
<<010-1234-5678>>
<<+91 98765 43210>>
<<98765 43210>> is my number
<<0412 345 678>>
<<(02) 9876 5432>>
phone <<1300 123 456>>
<<+55 11 91234-5678>>
<<(11) 91234-5678>>
<<+7 (495) 123-45-67>>
<<8 (495) 123-45-67>>
<<+852 2345 6789>>
Tel <<2345 6789>>
<<0912-345-678>>
<<138 0013 8000>>
手机号<<13800138000>>
加我<<159-8765-4321>>
请打<<021-61234567>>
<<0755-82345678>>转0
<<400-820-8820>>
<<+86-10-6552 9988>>
（<<0571）8888 6666>>
电话 <<０１０－６５５２９９８８>>
<<１３９００００１２３４>>
<<06-12345678>>
<<044 668 18 00>>
<<0470 12 34 56>>
<<+48 512 345 678>>
<<08-123 456 78>>
<<070-123 45 67>>
<<087 123 4567>>
<<0532 123 45 67>>
<<054-123-4567>>
ring me on <<07911123456>>
my number is <<4155550132>>
please text <<415 555 0132>> when outside
whatsapp: <<447911123456>>
fax <<5550132>>
Rappelez-moi au <<0612345678>>
erreichbar unter <<01711234567>>
拨打<<88886666>>咨询
<<138\u200b1234\u200b5678>>
""",
        Kind.RESIDENT_ID: """
身份证号<<11010519491231002X>>
<<11010519491231002x>>
id <<110105 19491231 002X>>
""",
        Kind.CARD: """
<<4111 1111 1111 1111>>
paid with <<5500000000000004>> yesterday
amex <<3782 822463 10005>>
<<371449635398431>>
卡号<<6222 0212 3456 7890 128>>
card <<4222222222222>>
diners <<30569309025904>>
<<6011-1111-1111-1117>>
<<3530 1113 3330 0000>>
""",
        Kind.IBAN: """
<<DE89 3704 0044 0532 0130 00>>
iban <<gb82west12345698765432>>
<<FR14 2004 1010 0505 0001 3M02 606>>
<<MT84 MALT 0110 0001 2345 MTLC AST0 01S>> bitte
<<NL91ABNA0417164300>>.
""",
        Kind.IP: """
from <<192.168.1.20>> at noon
<<10.0.0.1>>:8080
login <<203.0.113.77>>
dns <<8.8.8.8>>
<<2001:db8::1>>
<<fe80::1ff:fe23:4567:890a>>
[<<2001:db8:85a3::8a2e:370:7334>>]:443
<<::ffff:192.0.2.1>>
""",
        Kind.PLATE: """
<<京A·12345>>
车牌<<沪BD12345>>停在楼下
<<粤B 12345>>
<<浙A-D12345>>
开<<苏E88888>>的
licence plate <<AB12 CDE>>
plate: <<7ABC123>>
Kennzeichen <<B-MW 1234>>
plate number <<KA-01-AB-1234>>
reg no <<LM19 XYZ>>
plaque <<AB-123-CD>>
车牌号：<<京A·F0236>>
""",
        Kind.ADDRESS: """
Flat 2, <<14 Elm Grove, Bristol BS6 5AB>>
<<742 Evergreen Terrace, Springfield, OR 97403>>
we live at <<10 Downing Street>>
<<350 Fifth Avenue, New York, NY 10118>>
<<15 Rue de la Paix>>, Paris
<<Calle de Alcalá 42>>
<<Via Garibaldi, 8>>
88 <<Collins St>>, Melbourne
<<Hauptstr. 5>>, 80331 München
<<Hauptstraße 5a>>
Am Markt 3, <<10115 Berlin>>
deliver to <<5 Maple Court>>
leave it at <<17 Willow Close>> please
<<1234 NE 50th St>>, Seattle
<<P.O. Box 99>>
<<Av. Paulista, 1578>>
ship to <<12 high street>>
No. <<12, MG Road>>, Bengaluru
<<Prinsengracht 263>>
深圳市<<南山区深南大道9988号>>
<<成都市武侯区人民南路四段11号>>
送到<<上海市徐汇区宜山路700弄3号201室>>
<<江苏省南京市鼓楼区汉口路22号>>
<<阳光花园5栋2单元1203室>>
收货地址：<<北京市朝阳区三里屯SOHO5号楼>>
""",
        Kind.NAME: """
<<Mr. John Doe>>
please ask <<Mrs. O'Hara>>
leave it with <<Ms. Adeyemi>>
<<Dr. Emily Watson>> will sign
contact: <<Maria Garcia>>
Attn: <<Robert Fox>>
Ship to: <<Kevin O'Malley>>
Recipient: <<ANNA KOWALSKA>>
Customer: <<J. Smith>>
Name: <<Zhang Wei>>
my name is <<Priya Natarajan>>
Dear <<Sarah>>, thanks
an <<Frau Müller>>
<<Herr Schmidt>> ist da
联系人：<<王小明>>
收件人 <<李娜>>
收货人：<<欧阳娜娜>>电话
请找<<张女士>>
尊敬的<<陈小姐>>
我叫<<刘洋>>，
联系人:<<陈经理>>
""",
        Kind.HANDLE: """
follow <<@jane_doe92>>
<<twitter.com/janedoe>>
<<https://www.instagram.com/jane.doe/>>
<<linkedin.com/in/jane-doe-123>>
<<t.me/janedoe>>
wechat: <<jane_doe88>>
微信号：<<wxid_abc123>>
加微信<<lily2020>>
QQ：<<12345678>>
Discord: <<jane#1234>>
skype:<<jane.doe>>
my insta is <<janedoe>>
<<https://user:secret@host.example/x>>
<<https://shop.example/users/janedoe>>
微博<<@小明同学>>
""",
    }.items()
    for text in lines.strip().splitlines()
    if "<<" in text
)
"""(kind, text, what of it is personal)."""

NEGATIVES = """
EAN 4006381333931
Barcode 5012345678900 in stock
ISBN 978-3-16-148410-0
ISBN 0306406152
UPC 036000291452
4006381333931
036000291452
order 4155550132
Order no. 2024-11-27-000123
订单号13812345678
型号 13912345678
快递单号 75412345678901
货号：02188886666
invoice 415-555-0132
part number 90915-10003
Bosch 0 986 479 A03 brake disc
SKU 4111111111111111
Apple iPhone 15 Pro Max 256GB, 1920x1080, 50-60Hz, 220-240V
Size 600 400 2000 mm
Shelf 300 x 200 x 1800 cm
$1,299.00 instead of 1.499,00 EUR
¥13800138000
Price 13800138000 VND
01/02/2024 10:30 until 03/04/2024 18:00
2024-01-02 2025-03-04
20240102 to 20241231
Windows 10.0.19045.3693
firmware 1.2.3.4
version 10.2.30.4
v2.10.55.12
Section 12.3.4.5 of the manual
28 Inch Carbon Road Bike
3 Pack 12 Inch Square Drive Socket
Elmo 123 Sesame Street plush
2 TB Hard Drive
700x25C Road tyre, 8 speed
5 Way Switch
Mr. Coffee 12-Cup Maker
Dr. Martens 1460 Boots
Mrs. Meyer's Clean Day soap
Mr. Heater Portable Propane Buddy
Dr. Squatch Pine Tar Soap
Miss Dior Eau de Parfum
Contact lenses -1.25 8.6 14.2
Contact: stainless steel
Product name: Deluxe Mug
License plate frame, 2 pack
Number plate LED 12V light
全新A4纸80克500张
新款A12345系列
5号电池 8节装
国道318号沿线特产
客户好评如潮
老师同学都喜欢的笔
女士小姐姐同款外套
小罐茶先生系列
联系客服领取优惠
联系人手环 紧急
icon@2x.png
4K @60fps display
12V @ 2A adapter
ratio 16:9 at 10:20:30
MAC aa:bb:cc:dd:ee:ff
at shop dot
Model#1234 and Item #5678
DE12 3456 7890 bolts
M8 x 1.25 x 30 DIN 912
110105194912310021 serial
360 degree 1080 1440 2160
Vitamin C 1000 mg 60 tablets 4 packs
1000 2000 3000 4000 thread counts
+100 200 300 points
100 000 000 sold
SPF 50+ 200 ml 12345
IMEI 490154203237518
HP 903XL 6ZC73AE ink
Type 2 socket 32 A 7.4 kW
第1号店 全场5折
天地壹号 2号楼同款
""".strip().splitlines()
