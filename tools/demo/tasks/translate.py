"""Short phrases between English and French, German or Spanish: of a noun and an adjective, or learnt by heart."""

from __future__ import annotations

from demo.sample import Draw, Sample, user

_LANGUAGES = {"fr": "French", "de": "German", "es": "Spanish"}
_NOUNS = (
    ("cat", "le chat", "die Katze", "el gato"),
    ("dog", "le chien", "der Hund", "el perro"),
    ("house", "la maison", "das Haus", "la casa"),
    ("book", "le livre", "das Buch", "el libro"),
    ("car", "la voiture", "das Auto", "el coche"),
    ("table", "la table", "der Tisch", "la mesa"),
    ("bread", "le pain", "das Brot", "el pan"),
    ("apple", "la pomme", "der Apfel", "la manzana"),
    ("flower", "la fleur", "die Blume", "la flor"),
    ("door", "la porte", "die Tür", "la puerta"),
    ("chair", "la chaise", "der Stuhl", "la silla"),
    ("garden", "le jardin", "der Garten", "el jardín"),
    ("city", "la ville", "die Stadt", "la ciudad"),
    ("train", "le train", "der Zug", "el tren"),
    ("bridge", "le pont", "die Brücke", "el puente"),
    ("river", "la rivière", "der Fluss", "el río"),
    ("hat", "le chapeau", "der Hut", "el sombrero"),
    ("shoe", "la chaussure", "der Schuh", "el zapato"),
    ("key", "la clé", "der Schlüssel", "la llave"),
    ("letter", "la lettre", "der Brief", "la carta"),
    ("moon", "la lune", "der Mond", "la luna"),
    ("window", "la fenêtre", "das Fenster", "la ventana"),
    ("street", "la rue", "die Straße", "la calle"),
    ("horse", "le cheval", "das Pferd", "el caballo"),
    ("fish", "le poisson", "der Fisch", "el pez"),
    ("boat", "le bateau", "das Boot", "el barco"),
    ("bag", "le sac", "die Tasche", "el bolso"),
    ("knife", "le couteau", "das Messer", "el cuchillo"),
    ("cheese", "le fromage", "der Käse", "el queso"),
    ("lamp", "la lampe", "die Lampe", "la lámpara"),
)
"""English, French, German, Spanish, with their articles."""

_ADJECTIVES = (
    ("red", "rouge", "rouge", "rot", "rojo", "roja"),
    ("white", "blanc", "blanche", "weiß", "blanco", "blanca"),
    ("black", "noir", "noire", "schwarz", "negro", "negra"),
    ("small", "petit", "petite", "klein", "pequeño", "pequeña"),
    ("big", "grand", "grande", "groß", "grande", "grande"),
    ("beautiful", "beau", "belle", "schön", "bonito", "bonita"),
    ("new", "nouveau", "nouvelle", "neu", "nuevo", "nueva"),
    ("old", "vieux", "vieille", "alt", "viejo", "vieja"),
    ("green", "vert", "verte", "grün", "verde", "verde"),
    ("clean", "propre", "propre", "sauber", "limpio", "limpia"),
    ("cold", "froid", "froide", "kalt", "frío", "fría"),
    ("yellow", "jaune", "jaune", "gelb", "amarillo", "amarilla"),
)
"""English; French m, f; German; Spanish m, f."""

_SET_PHRASES = (
    ("good morning", "bonjour", "guten Morgen", "buenos días"),
    ("good evening", "bonsoir", "guten Abend", "buenas tardes"),
    ("good night", "bonne nuit", "gute Nacht", "buenas noches"),
    ("thank you", "merci", "danke", "gracias"),
    ("please", "s'il vous plaît", "bitte", "por favor"),
    ("goodbye", "au revoir", "auf Wiedersehen", "adiós"),
    ("how are you?", "comment allez-vous ?", "wie geht es dir?", "¿cómo estás?"),
    ("I am hungry", "j'ai faim", "ich habe Hunger", "tengo hambre"),
    ("I am tired", "je suis fatigué", "ich bin müde", "estoy cansado"),
    ("see you tomorrow", "à demain", "bis morgen", "hasta mañana"),
    ("excuse me", "excusez-moi", "Entschuldigung", "perdón"),
    ("I do not understand", "je ne comprends pas", "ich verstehe nicht", "no entiendo"),
    ("where is the station?", "où est la gare ?", "wo ist der Bahnhof?", "¿dónde está la estación?"),
    ("I love you", "je t'aime", "ich liebe dich", "te quiero"),
    ("yes", "oui", "ja", "sí"),
    ("no", "non", "nein", "no"),
)

_FROM_ENGLISH = (
    "Translate to {L}: {s}",
    "Translate into {L}: {s}",
    'How do you say "{s}" in {L}?',
    "{L} for: {s}",
    "Say this in {L}: {s}",
)
_FROM_ENGLISH_UNSEEN = ("Please translate to {L}: {s}", "Give me the {L} translation: {s}")
_TO_ENGLISH = (
    "Translate to English: {s}",
    "Translate from {L} to English: {s}",
    'What does "{s}" mean in English?',
)
_TO_ENGLISH_UNSEEN = ("Please translate to English: {s}",)


def make(draw: Draw) -> Sample:
    language, to_english = draw.pick(list(_LANGUAGES)), draw.chance(0.4)
    if not draw.test and draw.chance(0.12):
        phrase = dict(zip(("en", "fr", "de", "es"), draw.pick(_SET_PHRASES), strict=True))
    else:
        phrase = draw.of_split(
            lambda: _phrase(draw.pick(_NOUNS), draw.pick(_ADJECTIVES), draw.pick((0, 1, 1, 1, 2, 3, 4, 5))),
            lambda p: f"{language} {to_english} {p['en']}",
        )
    source, target = (phrase[language], phrase["en"]) if to_english else (phrase["en"], phrase[language])
    wordings = (_TO_ENGLISH, _TO_ENGLISH_UNSEEN) if to_english else (_FROM_ENGLISH, _FROM_ENGLISH_UNSEEN)
    question = draw.wording(*wordings).format(L=_LANGUAGES[language], s=source)
    return Sample("translate", target, "exact", target, [user(question)])


def _phrase(noun: tuple[str, ...], adjective: tuple[str, ...], form: int) -> dict[str, str]:
    """One phrase in all four languages."""
    en, fr, de, es = noun
    adj_en, adj_de = adjective[0], adjective[3]
    adj_fr = adjective[2 if fr.startswith("la ") else 1]
    adj_es = adjective[5 if es.startswith("la ") else 4]
    accusative = f"den {de[4:]}" if de.startswith("der ") else de
    forms = (
        (f"the {en}", fr, de, es),
        (f"The {en} is {adj_en}.", f"{fr} est {adj_fr}.", f"{de} ist {adj_de}.", f"{es} es {adj_es}."),
        (f"Where is the {en}?", f"Où est {fr} ?", f"Wo ist {de}?", f"¿Dónde está {es}?"),
        (f"I see the {en}.", f"Je vois {fr}.", f"Ich sehe {accusative}.", f"Veo {es}."),
        (f"I like the {en}.", f"J'aime {fr}.", f"Ich mag {accusative}.", f"Me gusta {es}."),
        (f"Is the {en} {adj_en}?", f"Est-ce que {fr} est {adj_fr} ?", f"Ist {de} {adj_de}?", f"¿Es {adj_es} {es}?"),
    )
    phrases = forms[form]
    if form == 1:
        phrases = tuple(text[0].upper() + text[1:] for text in phrases)
    return dict(zip(("en", "fr", "de", "es"), phrases, strict=True))
