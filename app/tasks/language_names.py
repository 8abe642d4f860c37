"""What languages are called in English, by their codes: facts, and how a code of several parts is read."""

import re

from app.tasks.languages import code_parts

# Source: the English names of ISO 639-1 and 639-3, the first one where there are several.
_TABLE = """
    af=Afrikaans; ak=Akan; am=Amharic; ar=Arabic; as=Assamese; ast=Asturian; ay=Aymara; az=Azerbaijani; ba=Bashkir;
    be=Belarusian; bg=Bulgarian; bm=Bambara; bn=Bengali; bo=Tibetan; br=Breton; bs=Bosnian; ca=Catalan; ceb=Cebuano;
    ckb=Central Kurdish; cs=Czech; cy=Welsh; da=Danish; de=German; dz=Dzongkha; ee=Ewe; el=Greek; en=English;
    eo=Esperanto; es=Spanish; et=Estonian; eu=Basque; fa=Persian; ff=Fulah; fi=Finnish; fj=Fijian; fo=Faroese;
    fr=French; fy=Western Frisian; ga=Irish; gd=Scottish Gaelic; gl=Galician; gn=Guarani; gsw=Swiss German;
    gu=Gujarati; ha=Hausa; haw=Hawaiian; he=Hebrew; hi=Hindi; hr=Croatian; ht=Haitian Creole; hu=Hungarian;
    hy=Armenian; id=Indonesian; ig=Igbo; is=Icelandic; it=Italian; ja=Japanese; jv=Javanese; ka=Georgian; kg=Kongo;
    ki=Kikuyu; kk=Kazakh; km=Khmer; kn=Kannada; ko=Korean; ks=Kashmiri; ku=Kurdish; ky=Kyrgyz; la=Latin;
    lb=Luxembourgish; lg=Ganda; li=Limburgish; ln=Lingala; lo=Lao; lt=Lithuanian; lv=Latvian; mg=Malagasy; mi=Maori;
    mk=Macedonian; ml=Malayalam; mn=Mongolian; mr=Marathi; ms=Malay; mt=Maltese; my=Burmese; ne=Nepali; nl=Dutch;
    nn=Norwegian Nynorsk; no=Norwegian; ny=Chichewa; oc=Occitan; om=Oromo; or=Odia; pa=Punjabi; pl=Polish; ps=Pashto;
    pt=Portuguese; qu=Quechua; rm=Romansh; rn=Rundi; ro=Romanian; ru=Russian; rw=Kinyarwanda; sa=Sanskrit;
    sc=Sardinian; sd=Sindhi; sg=Sango; si=Sinhala; sk=Slovak; sl=Slovenian; sm=Samoan; sn=Shona; so=Somali;
    sq=Albanian; sr=Serbian; ss=Swati; st=Southern Sotho; su=Sundanese; sv=Swedish; sw=Swahili; ta=Tamil; te=Telugu;
    tg=Tajik; th=Thai; ti=Tigrinya; tk=Turkmen; tl=Tagalog; tn=Tswana; to=Tongan; tr=Turkish; ts=Tsonga; tt=Tatar;
    tw=Twi; ug=Uyghur; uk=Ukrainian; ur=Urdu; uz=Uzbek; vi=Vietnamese; wo=Wolof; xh=Xhosa; yi=Yiddish; yo=Yoruba;
    yue=Cantonese; zh=Chinese; zu=Zulu
"""
_SCRIPTS = {
    "arab": "Arabic script",
    "cyrl": "Cyrillic script",
    "deva": "Devanagari",
    "hans": "simplified characters",
    "hant": "traditional characters",
    "latn": "Latin script",
}

NAMES: dict[str, str] = dict(re.findall(r"([a-z]+)=([^;]+?)\s*(?:;|$)", _TABLE))
"""Code, of two letters where there is such, → name."""


def language_name(code: str) -> str | None:
    """`de`, `deu` and `German` are German, `pt-BR` is Portuguese (BR), `zho_Hans` Chinese (simplified characters).

    None for what is no code and no name.
    """
    language, rest = code_parts(code)
    name = NAMES.get(language) or next((one for one in NAMES.values() if one.lower() == code.lower()), None)
    if name is None or not rest or name.lower() == code.lower():
        return name
    return f"{name} ({_SCRIPTS.get(rest, rest.upper())})"
