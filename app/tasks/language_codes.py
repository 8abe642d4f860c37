"""Two letters for a language where checkpoints have three: ISO 639-1 beside ISO 639-3. Facts, and nothing else."""

# Source: the code tables of ISO 639-3's registration authority (iso639-3.sil.org), for the languages that NLLB-200,
# M2M100 and mBART-50 publish. Those publish one member of a macrolanguage where ISO 639-1 has a code for the whole:
# it stands beside the whole's own three letters (ar=ara,arb), as the authority's table of macrolanguages has it.
# Norwegian is read as Bokmål, Filipino as Tagalog.
_TABLE = """
    af=afr ak=aka am=amh ar=ara,arb as=asm ay=aym,ayr az=aze,azj ba=bak be=bel bg=bul bm=bam bn=ben
    bo=bod br=bre bs=bos ca=cat cs=ces cy=cym da=dan de=deu dz=dzo ee=ewe el=ell en=eng eo=epo es=spa
    et=est,ekk eu=eus fa=fas,pes ff=ful,fuv fi=fin fj=fij fo=fao fr=fra fy=fry ga=gle gd=gla gl=glg
    gn=grn gu=guj ha=hau he=heb hi=hin hr=hrv ht=hat hu=hun hy=hye id=ind ig=ibo is=isl it=ita ja=jpn
    jv=jav ka=kat kg=kon ki=kik kk=kaz km=khm kn=kan ko=kor ks=kas ku=kur,kmr ky=kir lb=ltz lg=lug
    li=lim ln=lin lo=lao lt=lit lv=lav,lvs mg=mlg,plt mi=mri mk=mkd ml=mal mn=mon,khk mr=mar ms=msa,zsm
    mt=mlt my=mya ne=nep,npi nl=nld nn=nno no=nor,nob,nb ny=nya oc=oci om=orm,gaz or=ori,ory pa=pan
    pl=pol ps=pus,pbt pt=por qu=que,quy rn=run ro=ron ru=rus rw=kin sa=san sc=srd sd=snd sg=sag si=sin
    sk=slk sl=slv sm=smo sn=sna so=som sq=sqi,als sr=srp ss=ssw st=sot su=sun sv=swe sw=swa,swh ta=tam
    te=tel tg=tgk th=tha ti=tir tk=tuk tl=tgl,fil tn=tsn tr=tur ts=tso tt=tat tw=twi ug=uig uk=ukr
    ur=urd uz=uzb,uzn vi=vie wo=wol xh=xho yi=yid,ydd yo=yor zh=zho,cmn zu=zul
"""

SHORT: dict[str, str] = {
    code: short
    for short, codes in (entry.split("=") for entry in _TABLE.split())
    for code in codes.split(",")
}
"""Three letters → two; and `nb`, which is also written `no`."""
