"""Texts of our own with personal data in them, and texts that look so and hold none. The cases that the rules are
judged by are others: `eval/personal_data/`, by people who have not read the rules."""

from __future__ import annotations

from recllm.text.personal_data import PersonalDataKind as Kind

POSITIVES: tuple[tuple[Kind, str, str], ...] = tuple(
    (kind, text.replace("<<", "").replace(">>", ""), text.split("<<")[1].split(">>")[0])
    for kind, lines in {
        Kind.EMAIL: """
it's <<ann underscore lee at example dot com>>
<<kate@example[.]com>>
<<kate@example(dot)com>>
e-mail <<pete*example.com>> (* = @)
邮箱 <<wang.lei$example.com>> ($换成@)
邮箱是<<lili2001小老鼠example.com>>
redirect=/account?email=<<ida.holm%40example.se>>&x=1
mailto:<<first.last%2Bshop%40example.com>>
`<<lee@example.net>>`
(<<lee@example.net>>)
<<ann_at_example_dot_com>>
<<ann@@example.com>>
<<ann.lee@example,co,uk>>
Hotmail: <<ann.lee@hotmail>>
my gmail is <<annlee88 at gmail>>
gmail <<annlee88@gmail>>
<<a n n l e e @ e x a m p l e . c o m>>
Notify <<user+tag@sub.example.co.uk>>!
send to “<<jane@example.com>>”
<<jane (AT) example.com>>
<<jane~at~example.com>>
<<jane@example dot com>>
<<z.s#example.com>> 把#换成@
u=<<h.l%40example.it>>
<<h.l&#x40;example.it>>
<<meg dot ryder at example dot org>>
我的邮箱<<meg@example.com>>收不到
write <<o.hara+x_1@mail.example.org>>
mail <<bj#3@example.com>>
mail <<a!b@example.com>>
mail <<a$b@example.com>>
mail <<sales/uk@example.com>>
mail <<x=y@example.com>>
mail <<who?me@example.com>>
mail <<"ann b"@example.com>>
mail <<a|b@example.com>>
mail <<ann`x@example.com>>
mail <<ann@example.museum>>
发<<ann.b@sub.example.com.cn>>
邮箱<<张三@example.cn>>
<<ann AT example DOT com>>
<<ann [at] example [dot] co [dot] uk>>
<<ann_b{at}example.com>>
<<ann @ example . com>>
<<ann@ example.com>>
<<ann＠example．com>>
邮箱：<<ann艾特163点com>>
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
<<ann DOT smith AT example DOT com>>
<<ann.smith(a)example.com>>
<<ann-at-example-dot-com>>
邮箱：<<wanglei@163点com>>
<<wanglei#163.com>>（#换成@）
<<ann @ example . com>>
<<lei.wang（at）example.com>>
<<lei.wang【at】example【dot】com>>
<<ann {at} example {dot} org>>
<<ann arobase exemple point fr>>
<<ann chiocciola esempio punto it>>
user <<a@b.co>>
email: <<ann@mail-1.example.museum>>
QQ邮箱<<88888888@qq.com>>
<<ann@例子.中国>>
<<ann(at)example.com>>
<<kim dot lee at example dot co dot uk>>
""",
        Kind.PHONE: """
plz txt me b4 u come <<7185550143>>
SDT <<0905 550 123>>
โทร <<081-555-0123>>
<<555 0147>> is my work line
Mobile no <<07700 900 77 4>>
telemóvel <<912 555 012>>
hp <<012-555 0123>>
老公手机<<1770000 4321>>
订单,电话¶88,<<021-65550123>>
Bei Fragen: <<0911 / 55 50 12-3>>
If no one answers the door try <<(0)7700 900 812>>
numéro: <<07.55.50.12.34>> (après 18h)
<<06-12 34 56 78>> is mijn mobiel
my nos <<07700 900 111>> / 07700 900 112
〒は後で 電話 <<090 5555 0123>>
<<+81-90-5555-0123>>
手机号错了，是<<13912345678>>不是13912345679
<<1391234 5678>>
香港手提 <<9123 4567>>
SG hp <<9123 4567>>
Deliver after 5. <<617-555-0139>>. Thanks
{"to":"<<+16175550139>>","body":"Your order"}
cust mob <<07700900555>> wants callback
numer: <<512-555-012>>
my cell's <<415-555-0132>>
Please buzz <<212 555 0133>> when outside
my digits: <<503/555/0142>>
text <<5035550191>> plz
Bitte <<0176/12345678>> anrufen
Tel: <<0 30 / 12 34 56 78>>
<<07700900456>> is my mobile
driver rang <<07700.900.456>> got voicemail
please ring <<0 2 0 7 9 4 6 0 9 5 8>> thanks
mon numéro : <<06/12/34/56/78>>
mi móvil es <<699123456>>
Teléfono <<934 567 890>>
cell. <<3331234567>>
bel mij op <<0612345678>>
call <<9876543210>> before delivery
mob <<098765-43210>> near temple
ring <<0491 570 156>> when close
HK customer <<5550 0123>> call first
电话：<<9123 4567>>（香港）
ring <<412 34 567>>
звоните <<8 916 123-45-67>>
<<+7 916 123 45 67>>
llámame al <<55 1234 5678>>
<<011 44 20 7946 0958>> from the US call
dial <<+44 (0) 20-7946-0958>>
<<(+44) 7700 900321>>
tel:<<+49/171/1234567>>
"phone":"<<503-555-0144>>"
tel_no <<0161 496 0777>>
order #12345 - my number is <<503 555 0144>>
parcel lost? ring <<0161 496 0777>> pls
text msgs only <<5 0 3 5 5 5 0 1 4 4>>
if u need anything: <<503 555-0144>>
打<<13800001111>>没人接就打<<13800001111>>
手机号<<138.0000.1111>>
手机<<13800-001111>>
联系<<138/0000/1111>>
改成<<13800001111>>
订单备注：<<13800001111>>
快递员联系<<138 0000 1111>>
物流太慢，打了三次<<13800001111>>
商品有问题请拨<<400-820-0000>>
座机<<02155500142>>
座机：<<021 5550 0142>>
前台电话<<5550 0142>>
备用<<１３８　００００　１１１１>>
我妈手机<<13800001111>>她在家
请联系李女士 <<13800001111>>
<<86-13800001111>>
電話<<0912 345 678>>
市話<<02-2555-0188>>
回电<<13800001111>>谢谢
款到后通知<<13800001111>>
二维码扫不了，<<13800001111>>
机主<<13800001111>>
Call Ana @ <<503 555 0144>>
T: <<020 7946 0123>>
P: <<503-555-0144>>
phone (day) <<0161 496 0123>>
PH#<<503-555-0144>>
cell#<<5035550144>>
txt <<5035550144>>
Customer (<<07700 900123>>) refused the parcel
whatsapp me <<971501234567>>
Please ring bell, otherwise <<07700 900123>>
Gate 4 - <<07700900123>>
<<0664/1234567>> bitte anrufen
Tel. <<044 668 18 00>>
ring <<08-123 456 78>>
call on <<0861234567>>
call (503)-555-0144 or <<(503) 555 0145>>
<<503-555-0144>>ask for Bo
call me:<<07700900123>>pls
<<090 1234 5678>>に電話
<<010 1234 5678>> 연락
Unit 3 <<503-555-0144>>
x2 <<13800001111>>
can someone call me, <<5035550144>>, about the refund?
case cracked. <<503-555-0144>>
no answer <<07700 900123>>
gate code 4512 then <<07700 900 123>>
Item arrived damaged, please ring <<0161 496 0123>>
Model broke; text <<07700 900123>>
发票寄到了没 <<138 0000 1111>>
产品坏了<<13800001111>>
物流信息发<<13800001111>>
包裹放丰巢，验证码发<<13800001111>>
送货到楼下打<<138-0000-1111>>
phone number on the order is wrong, it is <<07700 900123>>
SMS <<0044 7700 900123>>
Tel. <<030-23125012>>
erreichbar: <<0151 23456789>>
Portable <<+33 (0)6 39 98 12 34>>
<<0639981234>> pour le livreur
tel: <<+39 333 123 4567>>
Llámame: <<+34600123456>>
llamar <<600-123-456>>
Tel <<91 123 4567>>
Call <<+91 9876543210>>
<<+86 10 5550 0123>>
<<0086 138 0000 1111>>
电话：<<138 00001111>>
电话:<<138 000 01111>>
手机尾号不对，应为<<13800001111>>
手机：<<138·0000·1111>>
手机：<<(138)00001111>>
手机：<<138 - 0000 - 1111>>
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
my no is <<09876543211>> pls call
confirm on <<+91 98765 43210>> before dispatch
+91<<9876543210>>
call <<+91 80 5550 1298>>
tel<<18800006655>>号
A1号楼<<13800001111>>收
电话：<<010-5550 1234 转 8021>>
<<021-55501234分机12>>
phone <<212-555-0187 x24>>
座机<<5550 8821>>
phone: <<555-0147>>
our number's <<555.0147>>
Tel. <<+39 347 555 0123>>
móvil: <<612345678>>
<<+34 91 555 01 23>>
tél. <<06 39 98 12 34>>
<<+33(0)639981234>>
handy <<0151 5550 1234>>
<<0151-555 01234>> anrufen
<<06 1234 5678>> bellen aub
+31<<612345678>>
<<+44-7700-900-123>>
<<07700900123>> is my cell
<<(02) 5550 0123>> Sydney
<<0491-570-156>>
<<+61 (0)491 570 156>>
<<1 (800) 555-0199>>
<<8005550199>> call toll free
<<(415)555 0123>>
<<+1 415-555-0123>>
台湾<<0912345678>>手机
<<+886 900 000 123>>
香港<<5555 0198>>电话
whatsapp <<+65 9123 4567>>
電話：<<13800001234>>
聯絡電話<<5555 0198>>
13800001234/<<13900001234>>
手机<<138-00-00-12-34>>
手机<<138_0000_1234>>
vx同号<<13800001234>>
mobile=<<13800001234>>&x=1
tel:<<+1-415-555-0132>>
客服电话<<02155501234>>
电话：<<57155501234>>
<<+86 21 5550 1234>>
(+86)<<13800001234>>
86-<<13800001234>>
<<4005550123>>热线
<<+49 (30) 555 0134>>
<<+43 1 5550123>>
<<+55 (11) 95555-0123>>
<<+7 (900) 555 01 23>>
<<+82 10-5555-0123>>
<<080-5555-0123>> まで
reach me @ <<415.555.0132>>
M: <<07700 900456>>
contact no. <<98765 43210>>
Cont: <<9876543210>>
mob:<<9876543210>>
alt no <<9876543210>>
""",
        Kind.RESIDENT_ID: """
身份证号<<11010519491231002X>>
<<11010519491231002x>>
id <<110105 19491231 002X>>
身份证11010519491231002X收 <<11010519491231002X>>
身份证<<110105 1949 1231 002X>>
身份证<<1101 0519 4912 3100 2X>>
身份证<<110 105 194 912 310 02X>>
身份证<<110105-1949-1231-002x>>
身份证<<110105.19491231.002X>>
ID<<11010519491231002X>>请
id=<<11010519491231002X>>
我<<11010519491231002X>>的
sfz<<11010519491231002X>>
No<<11010519491231002X>>
身份证<<110105_19491231_002X>>
身份证<<110105/19491231/002X>>
""",
        Kind.CARD: """
MC <<5555 5555 5555 4444>>exp0927
jcb:<<3566002020360505>>pls
Karte<<4000002500003155>>gesperrt
card no<<4242424242424242>>cvc123
<<4242·4242·4242·4242>>
my old <<5424 1800 12345 671>> was stolen
maestro<<6759649826438453>>
tarjeta terminada, completa es <<4548812049400004>>
cc=<<4012888888881881>>&cvv=123
Charge card <<5555 5555 5555 4444>> please
amex <<3782-822463-10005>>
<<6011000990139424>> is my discover
<<3530111333300000>>
CB <<4970 1012 3456 7893>>
<<4012 88888888 1881>>
<<36 2272 0627 1667>> diners
card: <<4242 4242 4242 4242>> exp 12/27
<<4111 1111 1111 1111>> 12/27 123
<<4111-1111-1111-1111>>/12/27
visa <<4111111111111111>>,cvv 123
<<5555555555554444>> exp0127
amex <<3714 496353 98431>>
amex <<3714-496353-98431>>
diners <<3056 930902 5904>>
jcb <<3530 1113 3330 0000>>
on card <<41111111 11111111>>
pay <<411111 1111111111>>
card <<4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1>>
card <<4-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1>>
卡 <<6222 0200 0000 1234 566>>
打到<<622202 0000001234566>>
返现<<6222020 000001234566>>
退到<<62220200 00001234566>>
订单退款到<<6228480000001234566>>
订单备注：<<6228480000001234566>>
订单3927退款卡<<6228480000001234566>>
发票已开，卡号<<6228480000001234566>>
<<4111.1111.1111.1111>>
<<4111_1111_1111_1111>>
<<4111/1111/1111/1111>>
card <<4111¶1111¶1111¶1111>>
card <<4111 - 1111 - 1111 - 1111>>
order 555 paid by <<4242424242424242>>
my order was charged to <<4242 4242 4242 4242>>
2x <<4111 1111 1111 1111>>
9 <<4111 1111 1111 1111>>
<<4111 1111 1111 1111>>
paid with <<5500000000000004>> yesterday
amex <<3782 822463 10005>>
<<371449635398431>>
卡号<<6222 0212 3456 7890 128>>
card <<4222222222222>>
diners <<30569309025904>>
<<6011-1111-1111-1117>>
<<3530 1113 3330 0000>>
card no.<<370000000000002>>,wants
pan=<<4111111111111111>>
卡号<<4111111111111111>>扣了两次
amex<<378282246310005>>被拒
visa ending... full <<4012 8888 8888 1881>>
我的卡<<4012888888881881>>丢了
Kartennummer <<4111 1111 1111 1111>>
tarjeta <<4111 1111 1111 1111>>
<<4111 1111 1111 1111>> exp 12/27 cvv 123
<<4111/1111/1111/1111>>
信用卡（<<4111111111111111>>）
order 551, card <<4111111111111111>>
invoice 11 paid with <<4111111111111111>>
尾号 <<4111 1111 1111 1111>>
diners <<3852 0000 0232 37>>
卡<<6222021234567890128>>收款
""",
        Kind.IBAN: """
<<DE89_3704_0044_0532_0130_00>>
<<DE89 3704 0044 0532 0130 00>>
iban <<gb82west12345698765432>>
<<FR14 2004 1010 0505 0001 3M02 606>>
<<MT84 MALT 0110 0001 2345 MTLC AST0 01S>> bitte
<<NL91ABNA0417164300>>.
IBAN:<<de89370400440532013000>>
iban <<de89 3704 0044 0532 0130 00>>
IBANDE89370400440532013000 <<DE89370400440532013000>>
账号<<DE89370400440532013000>>收
<<DE89-3704-0044-0532-0130-00>>
<<DE89.3704.0044.0532.0130.00>>
<<DE89  3704  0044  0532  0130  00>>
<<DE 89 3704 0044 0532 0130 00>>
<<ＤＥ８９　３７０４　００４４　０５３２　０１３０　００>>
iban=<<gb82west12345698765432>>;
<<DE89/3704/0044/0532/0130/00>>
IBAN nr.<<DE89370400440532013000>>
iban_<<DE89370400440532013000>>
""",
        Kind.IP: """
blocked ip: <<198 . 51 . 100 . 23>>
visitor <<203(.)0(.)113(.)9>>
Client IP <<198.51.100.14>>
logged in from <<198.51.100.14>>
shop blocked me <<203[.]0[.]113[.]9>>
failed payment from <<45.83.12.9>>
from <<203.0.113.20>> at noon
<<198.51.100.1>>:8080
login <<203.0.113.77>>
dns <<8.8.8.8>>
<<2001:db8::1>>
<<fe80::1ff:fe23:4567:890a>>
[<<2001:db8:85a3::8a2e:370:7334>>]:443
<<::ffff:192.0.2.1>>
来源IP<<203.0.113.77>>已冻结
登录ip:<<198.51.100.9>>，异常
从<<203.0.113.9>>登录的
IPv4=<<198.51.100.7>>;port=443
登录IP：<<3fff:12:34::abcd>>
IP：<<2001:DB8:ACAD:1::10>>（非常用设备）
IPv6地址<<2001:db8::8a2e:370:7334>>登录
src=<<2001:db8:1:2:3:4:5:6>>
IP2001:DB8::77 登录 <<2001:DB8::77>>
ipv6:<<2001:db8:abcd::1>>
来自<<fd12:3456:789a::1>>的请求
ＩＰ：<<１９２．０．２．１４６>>
ip_address=<<203.0.113.12>>&ua=x
client [<<2001:db8::5>>]:8443
IP地址为<<203.0.113.200>>。
最后登录地点上海(<<203.0.113.88>>)
ip <<5.6.7.8>> was blocked
<<203.0.113.4>>/24
用户<<203.0.113.5>>发帖
""",
        Kind.ADDRESS: """
<<Carrer de Mallorca 401, 08013 Barcelona>>
Lieferung an <<Auf dem Hügel 12, 53121 Bonn>>
<<Hinter der Mühle 3a, 37073 Göttingen>>
wohne jetzt <<An den Linden 45, Hinterhaus, 10315 Berlin>>
Paket nach <<In der Au 17, 6020 Innsbruck>>
adresse: <<14 rue du Faubourg-Saint-Antoine, 3e étage, 75011 Paris>>
<<Lieu-dit Le Moulin, 24250 Daglan>>
<<ul. Marszałkowska 84/92 m. 15, 00-514 Warszawa>>
adress: <<Storgatan 14 lgh 1102, 114 55 Stockholm>>
levering til <<Vesterbrogade 56, 2. tv, 1620 København V>>
My new address is <<The Old Rectory, Church Lane, Little Snoring, NR21 0AB>>
I'm at <<Rose Cottage, Mill Road, Great Bardfield CM7 4QQ>>
new addr <<8814 sw 152nd ave, miami fl 33196>>
drop off at <<3300 N Lake Shore Dr Apt 9C, Chicago IL 60657>>
<<RR 2 Box 118, Fairfield, IA 52556>>
<<Blk 123 Ang Mo Kio Ave 6 #08-456, Singapore 560123>>
return label should go to <<9 Penrose Terrace, Truro>>
I live on <<Harcourt Street 18>>, Dublin
<<河北省保定市徐水区大王店镇南营村六组>>
改地址到<<朝阳区望京SOHO塔3 B座1902>>
快递放<<翠湖天地6号楼3单元1201>>门口
老家<<山东省临沂市兰陵县向城镇丁庄村>>
<<上海市静安区愚园路 1018 号 2 楼>>
Address: <<P.O. Box 5512, Tulsa, OK 74101>>
<<Résidence Les Pins, 12 chemin du Lac, 74000 Annecy>>
<<Rue de la Loi 16, 1000 Bruxelles>>
<<Nørregade 10, 1165 København>>
<<ul. Długa 5/7, 31-147 Kraków>>
<<上海市徐汇区漕溪北路595号A座12楼>>收
<<江苏省昆山市花桥镇绿地大道231弄6号>>
<<福建省泉州市晋江市陈埭镇涵口村中片88号>>
快递柜：<<云景花园11栋1单元2602>>
my address: <<House 9, Road 12, Dhanmondi, Dhaka 1209>>
Neue Adresse: <<Zum Alten Hof 3, 99084 Erfurt>>
<<Unit 12/45 Beach Rd, Cottesloe WA 6011>>
<<甘肃省兰州市城关区东岗西路街道天水中路3号>>
住<<河南省新乡市长垣市蒲西街道向阳小区6号楼>>
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
66 quillfeather close, norwich <<nr99 4xx>>
<<Flat 402, Plot 17, Sample Nagar>> 2nd Main, Bengaluru 560001
<<H.No. 12-3-45, Sample Nagar>>, Hyderabad 500001
<<12/4, 3rd Cross, Example Layout>>, Bangalore 560078
<<5/88 Example St>>, Fitzroy VIC 3065
<<1 Example Rd>>
<<PO Box 123>>, Springfield
九龍旺角<<範例街25號8樓B室>>
台北市大安區<<範例路一段12號5樓>>
<<北京市海淀区示例村12号>>
上海市<<静安区示例路123弄4号502室>>
<<四川省成都市高新区天府示例街66号1栋1单元1001>>
我家在<<示例小区12号楼3单元402>>
住<<朝阳区示例家园8-2-301>>
<<musterstraße 12, 12345 musterstadt>>
<<Am Beispielplatz 5, 12345 Musterstadt>>
<<12 bis, avenue du Modèle 69003 Lyon>>
<<C/ Ejemplo 12, 3º B, 28001 Madrid>>
<<Avda. de la Muestra 44>>, Sevilla
<<Via Esempio 12/B, 00100 Roma>>
<<Voorbeeldstraat 12, 1012 AB Amsterdam>>
<<1-2-3 Sample, Shibuya-ku, Tokyo>>
Shipping address: <<9 Placeholder Way>>, Bristol
<<123 Main St., Anytown, CA 90210>>
<<Sample House, 12 Example Lane, Oxford OX1 2AB>>
""",
        Kind.NAME: """
please write on the card: With love from Uncle <<Bartholomew Finch>>
My flatmate <<Oluwaseun Adeyemi>> will open the door
I'm <<Rosalind Quarterman>> and I ordered the green kettle
This is <<Tadhg O'Sullivan>>, my parcel never came
Account in the name of <<Ngozi Umeh>>
invoice should be made out to <<Hildegard Zwick>>
Please change the name on the invoice to <<Marguerite Delacroix>>
Name: <<Xiomara Villalobos>>
Saludos, <<Iñaki Goikoetxea>>
Un saluto, <<Ludovica Pellegrini>>
Mvg, <<Wouter van der Heijden>>
Rechnung bitte auf <<Gundula Fenstermacher>> ausstellen
Bitte bei Nachbar <<Eberhard Klotz>> abgeben
Paket ist für meine Mutter <<Walburga Steinbeißer>>
Hallo Herr <<Pfannenschmidt>>, Ihr Paket ist da
facture au nom de <<Thibault Charbonneau>>
Le colis est pour mon fils <<Corentin Le Goff>>
Bonjour Madame <<Vautrin>>, votre commande est prête
Pedido a nombre de <<Encarnación Belmonte Ruiz>>
Firmado por: <<Nuria Castelló>>
Ritira mia moglie <<Ornella Buonfiglio>>
A nome di <<Giancarlo Sforza>>
Op naam van <<Femke Hoekstra>>
Ondertekend: <<Sjoerd Bakhuizen>>
the buyer, Mr <<Fotheringham>>, says it was broken
Passenger <<KOWALCZYK/AGNIESZKA MRS>> seat 14C
first_name=<<Thandiwe>>&last_name=Mokoena
{"firstName":"<<Svetlana>>","lastName":"Kuznetsova"}
order_id,customer_name,total¶1182,<<Beatrix Kiddle>>,44.00
name;phone;qty¶<<Anselm Rother>>;;3
收货人姓名,商品¶<<钱思远>>,保温杯
buyer|<<Yevgenia Lipskaya>>|2 pcs
customer wants embroidery "<<Josephine Marlow>>" on the robe
Engrave: <<Leopold & Clementine Ashby>>
Picked up by a man called <<Garrick Stonehouse>>
the courier signed it as "<<M. Pemberton>>" but nobody with that name lives here
delivered to someone named <<Vikram Chattopadhyay>>
I spoke to your colleague <<Jolanta Wisniewska>> yesterday
my wife <<Perpetua Nwosu>> paid with her card
parcel addressed to <<Cornelius Vandersloot>>
attn <<Hiroko Matsuyama>>, reception
t.a.v. <<Marloes Dijkgraaf>>
p.p. <<Henning Rasmussen>>
Hi <<Clementine>>, your order shipped
Dear <<Ignatius>>,
落款写<<苏明哲>>就行
署名：<<周雨薇>>
<<王思聪>>敬上
此致敬礼 <<何晓东>>
贺卡请写：送给<<方志敏>>，生日快乐
贺卡上写“亲爱的<<唐糖糖>>生日快乐”
帮我寄给我妹妹<<罗雨晴>>，别打我电话
东西是我男朋友<<江皓>>的，他来取
快递让我室友<<孟凡星>>代收
抬头：<<郑爽爽>>（个人）
发票抬头 <<曾国强>>
开票名称：<<范晓萱>>
我是<<夏知秋>>，昨天下单的
客户叫<<彭于晏>>，住三楼
<<吕秀才>> 13900001234 杭州市西湖区文三路1号
<<冯巩>>，电话13800001111，周末送
寄给<<蒋勤勤>>，谢谢
收：<<韩梅梅>>
投诉人：<<邓超群>>
申请人<<魏晨光>>，退款原因：破损
退款账户名：<<潘长江>>
账户名 <<丁俊晖>> 招商银行
购买人：<<姚晨晨>>
用户真名<<卢俊义>>，已实名
预约人：<<叶知秋>> 周六到店
送货单签字：<<余文乐>>
寄件：<<杜子腾>>，顺丰到付
绣名字：<<陈可欣>>
收件人姓名,数量¶<<高圆圆>>,2
To: <<Ann-Kathrin Weidenbusch>>
<<Prof. Dr. Eckhart Lindner>> wartet auf die Lieferung
Mr. <<Nakamura>> will pick it up
bestellt von <<Irmgard Dolezal>>
ordered by <<Kwabena Asante>>
I, <<Francesca Montgomery>>, hereby return
my name's <<Siobhán Kelleher>>
hi its <<Priscilla Okeke>> here
buyer name - <<Rodrigo Fuentes>>
Best, <<Rodrigo>>
Cheers¶<<Rodrigo>>
cardholder <<RODRIGO FUENTES>>
happy birthday <<Rodrigo Fuentes>>!
Congratulations <<Maya & Tobias Lund>>!
for the attention of <<Rodrigo Fuentes>>
delivery for <<Rodrigo Fuentes>>
Mevrouw <<De Groot>> is thuis
收件人 <<欧阳修远>>
联系<<王建军>>
<<刘思琪>>收
给<<刘思琪>>
<<张伟>>（先生）
客户<<张伟>>反馈破损
买家<<张伟>>要求退款
店长<<张伟>>
经理<<张伟>>
生日快乐<<张伟>>
祝<<张伟>>生日快乐
To <<张伟>>
<<张伟>>：你好
<<阿依古丽·买买提>>收
Kundin <<Roswitha Niedermayer>> beschwert sich
handed over to <<Gerald Iwu>>
last name <<Abramowitz>>
cust. <<Ifeoma Nnamdi>> wants exchange
refund issued to <<Ifeoma Nnamdi>>
贺卡署名<<程思远>>
我老公<<高建国>>的名字
报<<林晓>>的名字取货
<<胡一菲>>女士的订单
订单是<<曾小贤>>下的
用<<吕子乔>>的名字注册的
Name¶<<Jonas Wetterling>>¶Address below
Ship to:¶<<Margaret Oyelaran>>¶12 High St
Attn¶<<Siobhan McArdle>>
Recipient:¶<<Li Wei>>
Dear Ms <<Okonkwo>>, your lamp is ready
To: <<Priya Raman>>, 2nd floor
gift for <<Hettie Langstrom>>, please wrap
Cheers,¶<<Tobias Lund>>
c/o <<Ingrid Solheim>>
收货人¶<<买买提·艾力>>
收件人：<<阿卜杜拉·买买提>>
收件人：<<迪丽娜尔·艾山>> 电话
联系人：¶<<陈默然>>
姓名¶<<林若溪>>
致<<林若溪小姐>>：
致：<<林若溪女士>>
送给<<林若溪女士>>
祝<<顾明远先生>>生日快乐
给<<王建国师傅>>打电话
我叫<<李晓明>>，三楼
签收：<<赵一鸣>>
收货人姓名<<赵一鸣>>电话
转交<<赵一鸣先生>>
麻烦转交<<周雨桐女士>>
写“<<周雨桐女士>>收”
Mr <<J. Pettigrove>> signed
Herr <<Jörg Wetter>> hat bestellt
Señora <<Lucía Prado>> pregunta
Customer: <<Hanna Virtanen>>
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
签收人<<祁小满>>
收货人 <<顾晚棠>> 138
ship_name=<<GRETA OLMSTEAD>>;qty=1
buyer: <<greta olmstead>>, 2 pcs
contact person <<Tobias Quennell>>
Attn: Mrs <<Quennell>>
z.Hd. Herrn <<Quennell>>
Mme <<Duquesnel>> attend
Frau <<Feldhüter>> holt ab
Sig.ra <<Brambilla>>
leave with <<Greta Olmstead>> next door
gift from <<Greta Olmstead>> to her mum
Signed by <<G. OLMSTEAD>>
Regards, <<Greta Olmstead>>
请<<祁小满>>女士签收
收件人：<<阿依古丽·买买提>>
收貨人：<<陳大文>>
寄件人<<祁小满>>地址
姓名=<<祁小满>>
name: <<祁小满>>
To: <<Greta Olmstead>>, 12 boxes
cardholder <<GRETA OLMSTEAD>>
for <<Mr Olmstead>> at reception
Naam: <<Greta van Olmstead>>
Nom : <<Greta Duquesnel>>
Empfänger <<Greta Feldhüter>>
快递写<<祁小满>>收
经手人：<<祁小满>>
my husband <<Tobias Quennell>> will pick up
This is <<Greta Olmstead>>, order 55
""",
        Kind.HANDLE: """
加Q<<123456789>>
扣扣<<12345678>>
我V <<liming_88>>
薇：<<liming88>>
wechat id <<liming88>>
IG <<@anna.bakes>>
my discord is <<pixel#4821>>
find me on snap, <<jess_x0x>>
skype <<live:ann.smith>>
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
    for line in lines.strip().splitlines()
    if "<<" in line
    for text in [line.replace("¶", "\n")]
)
"""(kind, text, what of it is personal); ¶ is the end of a line."""

NEGATIVES = """
Monsieur Bricolage perceuse 18 V, 2 batteries
Monsieur Cuisine connect bol 4,5 L
Mr. Brown Coffee 240ml x 24
Mr Porky pork scratchings 65g
Mrs. Crimble's macaroons gluten free 195 g
Mrs Mills: secrets of the jazz piano, LP
Sir John A. rye whisky glass set of 2
Frau Meier Nudeln mit Ei 500g
Herr Lehmann, Roman, Taschenbuch
Sra. Jolly hot sauce 5oz
Señor Frogs t-shirt XL
Ring by Pilgrim, gold plated
Poster by Keith Haring, 50 x 70 cm
Book signed by Stephen King, first edition 1983
Signed by Michael Jordan, framed 8x10 photo with COA
Charles Eames lounge chair replica, walnut
Jamie Oliver pan 28 cm by Tefal
Paul Hollywood 20 cm cake tin
Estee Lauder Double Wear 1W2 Sand 30 ml
Jack & Jones jeans Glenn 32/34
Hermione Granger wand, resin, 38 cm
Dear Evan Hansen: the novel
Dear John, Nicholas Sparks, paperback
Hey Duggee puzzle 4-in-1
Contact: Carl Sagan, SF Masterworks
Uncle Ben's rice 1kg
Auntie Anne's pretzel kit
Oma Kleinmann Reibekuchen 1,5 kg
Papa John's gift card 25
Mama Bear sweatshirt XL
Neighbour Totoro plush 30 cm
Baker Street Boys DVD
Monopoly: Park Lane and Mayfair edition
"10 Rillington Place" Blu-ray
1313 Mockingbird Lane doormat 60x40
84 Charing Cross Road, Helene Hanff, 1st ed.
Lindenstraße Staffel 12 DVD
Puzzle Schloss Neuschwanstein 3, 1500 Teile
Calle Ocho 8 cigar sampler
张三疯奶茶 350ml
李宁 韦德之道10 42.5码
周大生 足金999 3.2g
老干妈辣椒油 275g
高姐洗发水 500ml
林志玲同款连衣裙 S码
周杰伦专辑 范特西 CD
鲁迅全集 18卷
张爱玲全集 14册
致敬米开朗基罗 雕像 30cm
3号楼梯 扶手配件
1号店同款 抽纸 24包
Router default login 192.168.0.1, user admin
Set the static IP 10.0.0.42 on the printer
default IP 192.168.1.254 printed below
小米路由器 默认地址192.168.31.1
摄像头默认IP 192.168.1.64
ping 127.0.0.1
0.0.0.0/0 route via 10.8.0.1
DNS 255.255.255.0 netmask
Actualización 4.2.0.11 corrige el brillo
Aktualisierung auf 6.1.2.15 dauert 10 Minuten
npm i @babel/core @vue/cli@5.0.8
nuget Newtonsoft.Json 13.0.3.27
libpng 1.6.37.1-3
composer require acme/shop 2.10.0.1
OS 16.7.8.9 beta
Cat6 U/FTP 50 m
S/FTP Cat 7 u/utp 10 m
1200 u/min Bohrmaschine
CSS @keyframes cheat sheet mug
discord: teal purple colour palette
旺旺雪饼 520g
Part 06A 906 032 HN
OEM 1K0 615 301 AA
Mann W 712/95 Ölfilter
INA 530 0550 10
NGK 97968 LZTR4A
Wera 05003533001
020-1234567 part no.
Ersatzteil 030 12345 06
7 12 24 pack cans
AB12 CDE toner chip
KA 19 box spanner
鲁A1234K型号水泵
青K12345型 电机
2B, Castell 9000, 119002
4B, 6B, 8B pencils, 123456
House no. 7, enamel, 100 200
Model name: Max Power 3000
Product name: Anna Chair
The best gift for Harry Potter fans
My friend Google told me so
老师说用这个牌子好
王先生家的酸奶 很浓
李阿姨水饺 1kg
陈老师英语 初中 3册
关羽手办 30cm
孙悟空 公仔 40cm
Michael Kors Jet Set crossbody, black
Charlotte Tilbury Pillow Talk lipstick
Delia Smith complete cookery course
J. R. R. Tolkien - The Hobbit (70th anniversary)
Fireman Sam bed sheets 90x200
Professor Snape wand
Queen Elizabeth II commemorative mug
My Friend Dahmer graphic novel
Love, Rosie DVD
Personalised Teddy Bear 30 cm
12 rue des Lilas, roman policier, 320 pages
Via Veneto 33 ml profumo
10 Ring Road Lego track
长安街 夜景 挂画 40*60
和平路12号 咖啡豆 250g
5号楼同款 灯
石头扫地机 P10
温碧泉 补水套装
白猫 洗洁精 1.5kg
雷柏 键盘 V500
徐福记 凤梨酥 184g
周六福 手链
史丹利 复合肥 50kg
邵万生 黄泥螺
花西子 散粉
贾国龙 酸菜鱼
张君雅 小妹妹 点心面
王老师教你学数学 视频课
白老师粉笔 100支
李医生 祛痘 套装
马医生 贴膏
林先生 眼镜 1.67
何小姐 的店 连衣裙
Thread 40/2 5000 m
货号13912345678
ISSN 1234-5678
ratio 16:9, 1920 x 1080
1234 5678 combination lock
T-1000 figure
F-16 kit 1/72
B-17 plane 1:48
C-3PO
KA-52 model
H7 55W 12V bulb
@ 2.99
u/c adapter
Paul Newman salad mug
Jean Paul Gaultier Scandal
Bob Evans mashed potatoes
Bob Marley One Love coffee
Jack Link's beef jerky
Ritter Rost CD
Käthe Kruse Puppe Anna 30 cm
Rosa Parks print
Miles Davis Kind of Blue LP
Flavor: Earl Grey
角色：孙悟空
品名：王老吉
口味：麻辣
颜色：黄金叶
湖南腊肉 500g
13500转 电机
0 12345 67890 5
3M 2097 filter
AC/DC T-shirt
KN95 20pcs
FFP2 NR
GU10 50W
R7s 118mm
S 36 M 38 L 40
UK6 US8.5
1-1/4" x 50'
Zeichnung 4711-0815
JD0012345678901
Vorgang 030-445566
@Christmas market stall 12
Open house @HQ on Friday
Live @Wembley 2024
Exp 2026-03-31, LOT 240915
谢谢老师傅
发票号码12345678
Model number 800-1234-01
Item no. 555-123-4567
Artikelnr. 0171 234 567
Bosch 0445110183 injector
0672329166
UPC 012345678905
012345678905 cereal
BMW 34 11 6 855 000
size 36 38 40 42 44
US 6 7 8 9 10 11 12 13
Set 0 1 2 3 4 5 6 7 8 9
code 4 8 15 16 23 42
1 200 000 units sold
Driver bits 20 25 30 35 40
screwdriver set 100 200 300 400
call of duty 2024 10 24 release
Phone case 160 x 78 x 12
Ring 18 750 000
2 @ 9.99, 10 @ 8.50
order 203-5557712-0091844
订单号202411082233
单号13800001111
运单 13800001111
型号18900235678 现货
批号20240915
通知：2024-06-18 10:00发
打8折 199 299 399
改价 1299 899 699
转速 12000-18000
联系客服 工作时间 9:00-21:00
活动 2024.10.24-2024.11.11
1380x900x450 mm
1:18 1380 pcs
Windows 11 22H2 22621.1234
0-0-0-0 code
coordinates 40.7128 -74.0060
NSN 5305-00-068-0508
SSCC 003401234500000012
tracking 9400 1000 0000 0000 0000 00
Gift card design 1234
全体老师 5折
方便老师批改
Love it. 10/10 would buy 2 more
Track record 1999 2001 2004
EN 60335-1 2012 2014
SKU 07700900123
item 0171 1234567
合同号 2024 0001 2345
统一社会信用代码91310000MA1K35XX12
Roll of 1000, 2.25 x 1.25
Pack 10 20 30 50 100
SIM 89 44 1000 0000
toll 100-200-300
Watch dial 40 20 22 mm
engraving "01.02.2003 04.05.2006"
Lot 24 31 40 45 50 60
Code 503 555 0144
EAN 4 006381 333931
5 012345 678900
Pantone 18-3838 19-4052
order code: 415-555-0132
07/12/2024 - 08/12/2024
10/11/12/13 cm
0.5/1.0/1.5/2.0 mm
01-02-03-04-05-06
150-180-200-220 cm
138/0000 x
手机 6.7 寸 2400 1080 120
打印纸 80g 500张 210 297
约 1200 1500 1800 转
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
@所有人 今晚8点直播
微博@客服小助手
Sealing ring N 021 301 1
Thermostat 050 121 113 C
执行标准：Q/ABC 0001-2020
YY/T 0969-2013 医用口罩
QB/T 1333-2018
EN ISO 20345:2011 S3
DIN EN 13795-1
ASTM F2413-2018
NF EN 71-3
IEC 60335-2-80
T/CNTAC 123-2022
粤妆20160001
苏械备20180123号
沪ICP备12345678号-1
京公网安备11010502030123号
PO 4500123456 line 10
purchase order 0045-0077-81
RMA# 415-555-0132
DN 0080012345
batch: 0123 456 789
drawing 030 123 456
Cat. 010 123 4567
微信8.0.49.2600版本
系统12.1.4.0
iOS客户端6.12.1.90
driver 31.0.15.4601
Office 16.0.14332.2
requires 10.2.1.15 or later
742 Evergreen Terrace LEGO set
12 Grimmauld Place model kit
1600 Pennsylvania Avenue mug
42nd Street musical poster
10 Cloverfield Lane Blu-ray
77 Sunset Strip DVD
5th Avenue perfume 125 ml
No. 1 Street food cookbook
2 Drive Bays NAS
1 Park Place cufflinks
24 Hour Drive recorder
18号色口红
长安街十里红妆
南京路8号色
道3号琴弦
里程表12号
1号店自营
9号公路摩托车
Serial 4111 1111 1111 1111
EAN 4006381333931, 4 pack
order=4111111111111111;qty=1
运单号4100000000654328
shipment 6222021234567890128
型号6011000990139424
IMEI: 378282246310005
Contact lenses monthly, 6 pack
contact Us
contact Paper Roll
Contact Solution Travel Kit
收货人签字后生效
收货人地址不详
收货人 电话 地址 都没填
姓名贴 幼儿园 防水
客户评价很好
name=Deluxe Mug;qty=1
item_name=Steel Pan
file_name=IMG_2024
shop_name=Blue Meadow
ship to stock
Attn buyers: final sale
一九九八年出品
二〇二四年新款
一五一十 三三两两
九九八十一难
九八七六五四三二一零 倒计时
1:1.5:2:2.5
a::b c::d
::before css mug
ff:ff:ff:ff:ff:ff
d:e:a:d
10:20:30:40
时间12:34:56:78
1.2.3.4.5
Model 10.5.20.30-B
98765 43210 beads
91234 56789 pcs
Plot 3 hours of fun
Sector 7 Transformers toy
Flat 50% off, 2 days only
Close 5 gaps
Unit 3 workbook
plate 4 pcs, 3 bowls
车牌框 A12345款
云A12345份
川A型板 12345
M. Asam 100 ml
Mr. Bean DVD
Mme Bovary
Herr Nilsson Plüschtier
M. Night Shyamalan DVD
Thanks, Team
This is Spinal Tap
To: Mom
From Paris With Love DVD
leave with neighbour
look at amazon.com
look at our site example dot
available at store.example.com
5 at $3.50 each
HP 45A@100
50% off@checkout
100-200-3000 ml
90-100-110 cm
Pantone 19-4052 TCX
OEM 000 989 92 03
EC 231-791-2
HS 8517.12.0000
UN 3480 PI 965
US Patent 7,654,321
DUNS 08-146-6849
USt-IdNr. DE136695976
EORI GB123456789000
GSTIN 27AAPFU0939F1ZV
EIN 12-3456789
SIRET 732 829 320 00074
HRB 123456
统一社会信用代码91310115MA1K3ABC0D
Season 2019-2020
Width 060-070-080 cm
035-040-045 needles
pearls 06 08 10 12 14 mm
色号01 02 03 04 05 06
""".strip().splitlines()
