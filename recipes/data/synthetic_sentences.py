"""Made-up sentences in six languages, and of telephones, for speech synthesizers to read: word lists and patterns."""

import random

# Each language: patterns, and the words that may stand for each slot. Plain nonsense is fine; many sound
# sequences are the aim, so the lists are chosen for different consonants and vowels, not for meaning.
LANGUAGES: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "en": (
        [
            "{who} {did} {what} {where}, and {who} {did} {what}.",
            "On the {nth} of {month}, {who} {did} {number} {things} {where}.",
            "Why would {who} want {number} {things} from {name}?",
            "Please call {name} at {number}, {number}, {number}; thank you.",
            "{name} thought that {who} {did} {what} {where}.",
        ],
        {
            "who": [
                "the old judge", "my younger brother", "a cheerful sailor", "our vet", "every good teacher",
                "the thief",
                "that noisy crowd", "his father", "a Swiss chef", "the church choir", "a huge frog", "your boyfriend",
            ],
            "did": [
                "measured", "pushed", "could have chosen", "watched", "threw away", "borrowed", "photographed",
                "brought",
                "will enjoy", "kept", "quickly finished", "fixed", "sold", "hardly noticed",
            ],
            "what": [
                "the yellow boat", "a thousand oysters", "five fresh peaches", "the broken machine", "an unusual hat",
                "two jars of honey", "the south wing", "all the sugar", "this rough cloth", "a zebra",
                "the long letter",
            ],
            "where": [
                "beyond the bridge", "in the garage", "near Chicago", "under the big oak tree", "at the edge of town",
                "before breakfast", "through the window", "by the river", "without a sound", "on Wednesday evening",
            ],
            "things": [
                "apples", "voices", "houses", "bicycles", "fish", "judges",
                "watches", "shirts", "coins", "youths",
            ],
            "nth": ["first", "second", "fifth", "eighth", "eleventh", "twelfth", "twentieth", "thirtieth"],
            "month": ["January", "February", "April", "July", "August", "October", "November"],
            "number": ["three", "seven", "nine", "twelve", "fifteen", "forty two", "sixty eight", "a hundred and five"],
            "name": ["George", "Victoria", "Hugh", "Jasper", "Beth", "Yusuf", "Charlotte", "Theo", "Zoe", "Marge"],
        },
    ),
    "en-telephone": (
        [
            "You have {count} new {messages}, received {when}.",
            "To reach {office}, please press {digit}.",
            "The number is {digit}, {digit}, {digit}, {digit}, {digit}, {digit}.",
            "All lines to {office} are {busy}, please call back {when}.",
            "Your appointment with {office} is {when}, at {count} minutes past {hour}.",
            "The train to {city} leaves {when} at {hour} {count}.",
            "There are {count} callers ahead of you, please {wait}.",
            "Please {wait}, you are being connected to {office}.",
            "Press {digit} to {act}, or {digit} to {act}.",
            "Thank you for calling {office} in {city}.",
        ],
        {
            "count": [
                "two", "three", "four", "five", "six", "eight", "eleven", "thirteen", "fourteen", "sixteen",
                "seventeen", "nineteen", "twenty", "twenty two", "thirty five", "forty one", "fifty nine",
            ],
            "digit": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
            "hour": ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "noon"],
            "messages": ["messages", "letters", "faxes", "parcels", "invoices", "voice messages"],
            "when": [
                "on Monday", "on Tuesday morning", "tomorrow", "next week", "this afternoon", "on the first of March",
                "on Saturday evening", "later today", "after the holidays", "in December", "on Friday at noon",
            ],
            "office": [
                "the front desk", "the sales department", "customer service", "our repair shop", "the dentist",
                "the booking office", "accounting", "the warehouse", "an operator", "the city library",
            ],
            "busy": ["busy", "out of order", "in use", "closed for lunch", "engaged"],
            "wait": ["hold the line", "wait for the tone", "stay with us", "be patient", "speak clearly"],
            "act": [
                "hear this message again", "erase it", "save your choice", "change your password", "start recording",
                "return to the main menu", "speak with a person", "hear the opening hours", "cancel the order",
            ],
            "city": [
                "Boston", "Dublin", "Geneva", "Kansas City", "Liverpool", "Montreal", "Oxford", "Perth", "Vienna",
            ],
        },
    ),
    "it": (
        [
            "{who} {did} {what} {where}, ma {who} {did} {what}.",
            "Il {number} di {month} {who} {did} {what}.",
            "Buongiorno {name}, {who} {did} {what} {where}.",
            "Chiamate {name} al numero {number}, {number}, {number}.",
        ],
        {
            "who": [
                "il vecchio pescatore", "mia sorella", "un giovane medico", "la zia", "il signor Rossi",
                "lo scoiattolo",
                "una ragazza gentile", "il figlio del giudice", "nessuno", "il gatto bianco", "la guida", "l'ingegnere",
            ],
            "did": [
                "ha visto", "compra", "aveva cercato", "mangia", "porta via", "non conosce", "raccoglie", "sceglie",
                "ha scritto", "voleva", "dimentica", "guarda spesso",
            ],
            "what": [
                "le chiavi della macchina", "un bicchiere d'acqua", "gli spaghetti", "una grande montagna",
                "il giornale",
                "quattro bottiglie di vino", "la luce verde", "uno zaino pesante", "il ghiaccio", "cinque sedie rosse",
            ],
            "where": [
                "in cucina", "vicino alla stazione", "sotto il ponte", "a Bologna", "davanti alla chiesa",
                "ogni giovedì",
                "nel bosco", "senza fretta", "dopo pranzo", "sulla spiaggia",
            ],
            "month": ["gennaio", "febbraio", "maggio", "luglio", "agosto", "settembre", "dicembre"],
            "number": ["tre", "cinque", "otto", "undici", "quindici", "ventuno", "trentasette", "cento"],
            "name": ["Giuseppe", "Francesca", "Luigi", "Chiara", "Matteo", "Beatrice", "Sergio", "Ilaria"],
        },
    ),
    "ru": (
        [
            "{who} {did} {what} {where}, а {who} {did} {what}.",
            "{number} {month} {who} {did} {what}.",
            "Здравствуйте, {name}, {who} {did} {what} {where}.",
            "Наберите номер {number}, {number}, {number}.",
        ],
        {
            "who": [
                "старый рыбак", "мой младший брат", "учитель", "весёлый повар", "наш сосед", "большой медведь", "врач",
                "этот человек", "каждый ученик", "шофёр", "художник", "дядя Юра",
            ],
            "did": [
                "купил", "увидел", "всегда ищет", "хочет забыть", "принёс", "читает", "нашёл", "не любит", "получит",
                "пишет", "быстро съел", "подарил",
            ],
            "what": [
                "жёлтую лодку", "чашку чая", "новую книгу", "пять яблок", "красный шарф", "длинное письмо", "ключи",
                "хороший подарок", "тысячу рублей", "свежий хлеб", "ящик рыбы",
            ],
            "where": [
                "на берегу реки", "в Москве", "под мостом", "около вокзала", "за окном", "утром в четверг", "в лесу",
                "без шума", "после обеда", "у бабушки",
            ],
            "month": ["января", "февраля", "мая", "июля", "августа", "октября", "декабря"],
            "number": ["три", "пять", "семь", "десять", "двенадцать", "двадцать один", "сорок восемь", "шестьдесят"],
            "name": ["Николай", "Ольга", "Сергей", "Наташа", "Михаил", "Евгения", "Юрий", "Жанна"],
        },
    ),
    "cs": (
        [
            "{who} {did} {what} {where}, ale {who} {did} {what}.",
            "Dobrý den, tady {name}, {who} {did} {what} {where}.",
            "Zavolejte prosím na číslo {number}, {number}, {number}.",
        ],
        {
            "who": [
                "starý rybář", "můj mladší bratr", "učitel", "veselý kuchař", "náš soused", "velký medvěd", "lékař",
                "každý žák", "řidič", "strýc Jiří", "hezký kocour",
            ],
            "did": [
                "koupil", "uviděl", "vždycky hledá", "chce zapomenout", "přinesl", "čte", "našel", "nemá rád",
                "dostane",
                "píše", "rychle snědl",
            ],
            "what": [
                "žlutou loď", "šálek čaje", "novou knihu", "pět jablek", "červený šátek", "dlouhý dopis", "klíče",
                "hezký dárek", "tisíc korun", "čerstvý chléb", "košík hub",
            ],
            "where": [
                "na břehu řeky", "v Praze", "pod mostem", "u nádraží", "za oknem", "ve čtvrtek ráno", "v lese",
                "bez hluku", "po obědě", "u babičky",
            ],
            "number": ["tři", "pět", "sedm", "deset", "dvanáct", "dvacet jedna", "čtyřicet osm", "šedesát"],
            "name": ["Karel", "Jana", "Zdeněk", "Lucie", "Ondřej", "Věra", "František", "Božena"],
        },
    ),
    "fi": (
        [
            "{who} {did} {what} {where}, mutta {who} {did} {what}.",
            "Hyvää päivää, {name} täällä, {who} {did} {what} {where}.",
            "Soittakaa numeroon {number}, {number}, {number}.",
        ],
        {
            "who": [
                "vanha kalastaja", "pikkuveljeni", "opettaja", "iloinen kokki", "naapurimme", "iso karhu", "lääkäri",
                "jokainen oppilas", "kuljettaja", "setä", "kaunis kissa",
            ],
            "did": [
                "osti", "näki", "etsii aina", "haluaa unohtaa", "toi", "lukee", "löysi", "ei koskaan myynyt", "saa",
                "kirjoittaa", "söi nopeasti",
            ],
            "what": [
                "keltaisen veneen", "kupin teetä", "uuden kirjan", "viisi omenaa", "punaisen huivin", "pitkän kirjeen",
                "avaimet", "hyvän lahjan", "tuhat euroa", "tuoreen leivän", "korin sieniä",
            ],
            "where": [
                "joen rannalla", "Helsingissä", "sillan alla", "aseman lähellä", "ikkunan takana", "torstaiaamuna",
                "metsässä", "ääneti", "lounaan jälkeen", "isoäidin luona",
            ],
            "number": ["kolme", "viisi", "seitsemän", "kymmenen", "kaksitoista", "kaksikymmentäyksi", "kuusikymmentä"],
            "name": ["Pekka", "Liisa", "Jukka", "Riitta", "Väinö", "Sirkka", "Yrjö", "Aino"],
        },
    ),
    "de": (
        [
            "{who} {did} {what} {where}, und {who} {did} {what}.",
            "Am {nth} {month} {did} {who} {what}.",
            "Guten Tag, hier spricht {name}; {who} {did} {what} {where}.",
            "Wählen Sie bitte {number}, {number}, {number}.",
        ],
        {
            "who": [
                "der alte Fischer", "mein jüngerer Bruder", "die Ärztin", "ein fröhlicher Koch", "unser Nachbar",
                "der große Bär", "jeder Schüler", "die Köchin", "ein Polizist", "der Richter", "niemand",
            ],
            "did": [
                "kaufte", "sah", "suchte", "vergaß", "brachte", "las",
                "schrieb", "verkaufte", "zeichnete", "pflückte",
            ],
            "what": [
                "das gelbe Boot", "eine Tasse Tee", "fünf Äpfel", "den roten Schal", "die Schlüssel", "tausend Euro",
                "ein schönes Geschenk", "frisches Brot", "einen Korb Pilze", "das lange Gespräch",
            ],
            "where": [
                "am Ufer des Flusses", "in Leipzig", "unter der Brücke", "hinter dem Bahnhof", "am Donnerstag früh",
                "im Wald", "ohne Geräusch", "nach dem Essen", "bei der Großmutter",
            ],
            "nth": ["ersten", "zweiten", "fünften", "achten", "elften", "zwölften", "zwanzigsten"],
            "month": ["Januar", "März", "Mai", "Juli", "August", "Oktober", "Dezember"],
            "number": ["drei", "fünf", "sieben", "acht", "zwölf", "einundzwanzig", "achtundvierzig", "hundert"],
            "name": ["Jürgen", "Charlotte", "Wolfgang", "Zoe", "Matthias", "Ingeborg", "Felix", "Ute"],
        },
    ),
}  # fmt: skip


def sentence(language: str, key: str) -> str:
    """A sentence in the language, always the same for the same key."""
    patterns, words = LANGUAGES[language]
    chance = random.Random(f"{language}/{key}")
    pieces = chance.choice(patterns).split("{")
    text = pieces[0] + "".join(chance.choice(words[slot]) + rest for slot, rest in (p.split("}") for p in pieces[1:]))
    return text[0].upper() + text[1:]
