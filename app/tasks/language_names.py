"""Languages as people call them: English names, and one short code beside the many that checkpoints publish."""

from collections import Counter
from collections.abc import Collection

from app.tasks.language_codes import SHORT

# ISO 639's reference names, shortened to what English speakers say.
_TABLE = """
    ace=Acehnese acm=Mesopotamian_Arabic acq=Ta'izzi-Adeni_Arabic aeb=Tunisian_Arabic af=Afrikaans
    ajp=South_Levantine_Arabic ak=Akan am=Amharic apc=North_Levantine_Arabic ar=Arabic ars=Najdi_Arabic
    ary=Moroccan_Arabic arz=Egyptian_Arabic as=Assamese ast=Asturian awa=Awadhi ay=Aymara az=Azerbaijani
    azb=South_Azerbaijani ba=Bashkir ban=Balinese be=Belarusian bem=Bemba bg=Bulgarian bho=Bhojpuri bjn=Banjar
    bm=Bambara bn=Bengali bo=Tibetan br=Breton bs=Bosnian bug=Buginese ca=Catalan ceb=Cebuano cjk=Chokwe
    ckb=Central_Kurdish crh=Crimean_Tatar cs=Czech cy=Welsh da=Danish de=German dik=Southwestern_Dinka dyu=Dyula
    dz=Dzongkha ee=Ewe el=Greek en=English eo=Esperanto es=Spanish et=Estonian eu=Basque fa=Persian ff=Fulah
    fi=Finnish fj=Fijian fo=Faroese fon=Fon fr=French fur=Friulian fy=Western_Frisian ga=Irish gd=Scottish_Gaelic
    gl=Galician gn=Guarani gu=Gujarati ha=Hausa he=Hebrew hi=Hindi hne=Chhattisgarhi hr=Croatian ht=Haitian_Creole
    hu=Hungarian hy=Armenian id=Indonesian ig=Igbo ilo=Iloko is=Icelandic it=Italian ja=Japanese jv=Javanese
    ka=Georgian kab=Kabyle kac=Jingpho kam=Kamba kbp=Kabiye kea=Kabuverdianu kg=Kongo ki=Kikuyu kk=Kazakh km=Khmer
    kmb=Kimbundu kn=Kannada knc=Central_Kanuri ko=Korean ks=Kashmiri ku=Kurdish ky=Kyrgyz la=Latin lb=Luxembourgish
    lg=Ganda li=Limburgish lij=Ligurian lmo=Lombard ln=Lingala lo=Lao lt=Lithuanian ltg=Latgalian lua=Luba-Lulua
    luo=Luo lus=Mizo lv=Latvian mag=Magahi mai=Maithili mg=Malagasy mi=Maori min=Minangkabau mk=Macedonian
    ml=Malayalam mn=Mongolian mni=Manipuri mos=Mossi mr=Marathi ms=Malay mt=Maltese my=Burmese ne=Nepali nl=Dutch
    nn=Norwegian_Nynorsk no=Norwegian ns=Northern_Sotho nso=Northern_Sotho nus=Nuer ny=Chichewa oc=Occitan om=Oromo
    or=Odia pa=Punjabi pag=Pangasinan pap=Papiamento pb=Portuguese_(Brazil) pl=Polish prs=Dari ps=Pashto
    pt=Portuguese qu=Quechua rn=Rundi ro=Romanian ru=Russian rw=Kinyarwanda sa=Sanskrit sat=Santali sc=Sardinian
    scn=Sicilian sd=Sindhi sg=Sango shn=Shan si=Sinhala sk=Slovak sl=Slovenian sm=Samoan sn=Shona so=Somali
    sq=Albanian sr=Serbian ss=Swati st=Southern_Sotho su=Sundanese sv=Swedish sw=Swahili szl=Silesian ta=Tamil
    taq=Tamasheq te=Telugu tg=Tajik th=Thai ti=Tigrinya tk=Turkmen tl=Tagalog tn=Tswana tpi=Tok_Pisin tr=Turkish
    ts=Tsonga tt=Tatar tum=Tumbuka tw=Twi tzm=Central_Atlas_Tamazight ug=Uyghur uk=Ukrainian umb=Umbundu ur=Urdu
    uz=Uzbek vec=Venetian vi=Vietnamese war=Waray wo=Wolof xh=Xhosa yi=Yiddish yo=Yoruba yue=Cantonese zh=Chinese
    zt=Chinese_(Traditional) zu=Zulu
"""
_NAMES = {code: name.replace("_", " ") for code, name in (entry.split("=") for entry in _TABLE.split())}
_REST = {
    ("zh", "hans"): "Simplified",
    ("zh", "hant"): "Traditional",
    ("pt", "br"): "Brazil",
}

# What LibreTranslate's clients send, and what it may stand for in a checkpoint, best first.
_READINGS = {
    "zh": ("zh", "zh-Hans"),
    "zh-hans": ("zh-Hans", "zh"),
    "zt": ("zt", "zh-Hant"),
    "zh-hant": ("zh-Hant", "zt"),
    "pb": ("pb", "pt-BR", "pt"),
    "pt-br": ("pt-BR", "pb", "pt"),
}


def readings(code: str) -> tuple[str, ...]:
    """How a client's code may be spelled for a checkpoint: old ones for new ones and the other way round."""
    return _READINGS.get(code.lower().replace("_", "-"), (code,))


def listed_codes(published: Collection[str]) -> dict[str, str]:
    """A checkpoint's codes → as they are told to clients: eng_Latn → en; zho_Hans beside zho_Hant → zh-Hans."""
    parts = {code: _parts(code) for code in published}
    counts = Counter(language for language, _ in parts.values())
    return {
        code: f"{language}-{rest.title() if len(rest) == 4 else rest.upper()}"
        if rest and counts[language] > 1
        else language
        for code, (language, rest) in parts.items()
    }


def english_name(code: str) -> str:
    """The name of a listed code; the code itself where it is none that we know."""
    language, _, rest = code.partition("-")
    name = _NAMES.get(language, language)
    return f"{name} ({_REST.get((language, rest.lower()), rest)})" if rest else name


def prompted_name(code: str) -> str | None:
    """What a generative model is told: `de`, `deu` and `German` are German. None for what is no code and no name."""
    language, rest = _parts(code)
    if language in _NAMES:
        return english_name(f"{language}-{rest}" if rest and rest != "XX" else language)
    return next((name for name in _NAMES.values() if name.lower() == code.lower()), None)


def language_of(code: str) -> str:
    """The language alone, in two letters where it has such: zt → zh, pt-BR → pt, deu_Latn → de."""
    return _parts(readings(code)[-1])[0]


def _parts(code: str) -> tuple[str, str]:
    language, _, rest = code.replace("-", "_").partition("_")
    return SHORT.get(language.lower(), language.lower()), rest
