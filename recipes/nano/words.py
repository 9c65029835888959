"""Word tables and makers of rare strings for the curriculum: names, things, places, codes, dates, pseudo-words.

Every function takes the caller's `random.Random` and holds no state, so a row is a function of its seed alone.
"""

# ruff: noqa: E501 (tables and their small makers read better in long lines)

# fmt: off
from __future__ import annotations

from collections.abc import Sequence
from random import Random

FIRST = ["Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Irene", "Jack", "Kate", "Liam", "Mia", "Noah", "Olga", "Paul", "Quinn", "Rosa", "Sam", "Tina", "Uma", "Victor", "Wendy", "Xavier", "Yara", "Zane", "Aisha", "Bruno", "Chloe", "Diego", "Elena", "Farid", "Gita", "Hugo", "Ines", "Jonas", "Kofi", "Leila", "Marco", "Nadia", "Omar", "Priya", "Ravi", "Sofia", "Tomas", "Ursula", "Vera", "Wei", "Yusuf", "Zoe"]
LAST = ["Adams", "Baker", "Carter", "Diaz", "Evans", "Fischer", "Garcia", "Hughes", "Ito", "Jensen", "Khan", "Lopez", "Miller", "Novak", "Okafor", "Patel", "Quist", "Rossi", "Silva", "Turner", "Umar", "Vogel", "Walsh", "Xu", "Young", "Zimmer", "Berg", "Cohen", "Dunn", "Ferrari", "Grant", "Holm", "Ivanov", "Jones", "Kim", "Larsen", "Moreau", "Nolan", "Ortega", "Price"]
CITIES = ["Paris", "London", "Berlin", "Madrid", "Rome", "Oslo", "Vienna", "Prague", "Dublin", "Lisbon", "Athens", "Warsaw", "Zurich", "Geneva", "Boston", "Chicago", "Denver", "Seattle", "Austin", "Miami", "Toronto", "Sydney", "Tokyo", "Osaka", "Cairo", "Nairobi", "Lima", "Bogota", "Delhi", "Mumbai", "Seoul", "Bangkok", "Leeds", "Bristol", "Porto", "Naples", "Lyon", "Ghent", "Turin", "Malmo"]
COLOURS = ["red", "blue", "green", "black", "white", "grey", "yellow", "purple", "orange", "brown", "pink", "silver", "golden", "dark", "light"]
ADJECTIVES = ["new", "old", "small", "large", "heavy", "light", "cheap", "fancy", "wooden", "plastic", "metal", "portable", "electric", "folding", "classic", "compact", "wireless", "smart", "soft", "solid"]
ITEMS = ["kettle", "lamp", "chair", "table", "blender", "toaster", "jacket", "backpack", "tent", "bicycle", "scooter", "camera", "keyboard", "monitor", "mouse", "printer", "speaker", "headset", "watch", "phone", "tablet", "laptop", "router", "charger", "cable", "desk", "sofa", "mattress", "pillow", "blanket", "mug", "plate", "knife", "pan", "oven", "fridge", "heater", "fan", "vacuum", "iron", "drill", "hammer", "ladder", "hose", "shovel", "mirror", "clock", "radio", "guitar", "piano", "violin", "drum", "helmet", "glove", "boot", "shoe", "sandal", "shirt", "dress", "skirt", "scarf", "hat", "belt", "wallet", "suitcase", "umbrella", "bottle", "thermos", "grill", "cooler", "lantern", "flashlight", "tripod", "lens", "drone", "puzzle", "doll", "kite", "ball", "racket", "skateboard", "treadmill", "notebook", "pen"]
BRANDS = ["Nova", "Apex", "Zenith", "Orion", "Luma", "Vertex", "Solace", "Kestrel", "Aurora", "Titan", "Pulse", "Willow", "Cobalt", "Ember", "Frost", "Haven", "Juno", "Lyra", "Maple", "Onyx", "Prism", "Quartz", "Raven", "Sable", "Tundra"]
MODELS = ["Pro", "Max", "Mini", "Plus", "Lite", "Air", "One", "Go", "X", "Ultra", "Classic", "Sport", "Home", "Duo", "Studio"]
FOODS = ["pizza", "pasta", "soup", "salad", "burger", "sushi", "curry", "taco", "noodles", "rice", "bread", "cheese", "steak", "salmon", "pancakes", "omelette", "sandwich", "pie", "cake", "cookies", "yogurt", "apple", "banana", "mango", "grapes", "lemon", "tomato", "carrot", "onion", "potato", "mushroom", "spinach", "beans", "lentils", "tofu", "chicken", "shrimp"]
DRINKS = ["coffee", "tea", "juice", "water", "lemonade", "cocoa", "milk", "smoothie", "cider", "soda"]
ANIMALS = ["dog", "cat", "horse", "cow", "sheep", "goat", "pig", "rabbit", "fox", "wolf", "bear", "lion", "tiger", "mouse", "owl", "eagle", "duck", "goose", "swan", "frog", "turtle", "snake", "whale", "shark", "otter", "beaver"]
SPORTS = ["football", "tennis", "hockey", "rugby", "cricket", "golf", "swimming", "rowing", "boxing", "basketball", "volleyball", "handball", "cycling", "running", "skiing", "judo"]
TEAMS = ["Tigers", "Hawks", "Rovers", "Comets", "Giants", "Wolves", "Sharks", "Rangers", "Falcons", "Bulls", "United", "Pirates", "Saints", "Knights", "Dragons", "Stars"]
APPS = ["Notely", "Pixelo", "Graphly", "Tasker", "Mailbird", "Docify", "Syncro", "Chartly", "Fotofix", "Webly", "Codebox", "Planna", "Tunely", "Vaultly", "Readit"]
CARS = ["sedan", "truck", "van", "coupe", "hatchback", "minivan", "convertible", "wagon", "jeep", "motorbike"]
BODY = ["back", "knee", "shoulder", "head", "stomach", "throat", "ankle", "wrist", "neck", "chest", "ear", "eye", "foot", "hand", "elbow"]
SUBJECTS = ["maths", "physics", "history", "biology", "chemistry", "music", "art", "geography", "English", "French", "Latin", "economics"]
JOBS = ["nurse", "teacher", "driver", "baker", "painter", "farmer", "pilot", "lawyer", "plumber", "singer", "actor", "clerk", "doctor", "sailor", "editor", "coach"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TREES = ["oak", "pine", "birch", "maple", "cedar", "willow", "elm", "ash", "fir", "spruce"]
METALS = ["iron", "copper", "silver", "gold", "zinc", "tin", "lead", "nickel", "steel", "aluminium"]
FLOWERS = ["rose", "tulip", "daisy", "lily", "orchid", "violet", "poppy", "iris", "daffodil", "sunflower"]
FAMILY = ["mother", "father", "sister", "brother", "aunt", "uncle", "cousin", "grandmother", "grandfather", "nephew", "niece", "daughter", "son"]
SHAPES = ["circle", "square", "triangle", "rectangle", "oval", "cube", "sphere", "cone", "cylinder", "pyramid"]
ROOMS = ["kitchen", "bedroom", "bathroom", "hallway", "garage", "attic", "cellar", "office", "balcony", "garden"]
INSTRUMENTS = ["guitar", "piano", "violin", "flute", "trumpet", "drum", "cello", "harp", "clarinet", "saxophone"]
TOOLS = ["hammer", "saw", "drill", "wrench", "screwdriver", "pliers", "chisel", "shovel", "rake", "axe"]
CLOTHES = ["shirt", "dress", "skirt", "scarf", "hat", "belt", "jacket", "coat", "sock", "glove", "trousers", "sweater"]
VEHICLES = ["car", "bus", "train", "tram", "plane", "boat", "ferry", "truck", "bicycle", "scooter"]
EMOTIONS = ["happy", "sad", "angry", "afraid", "proud", "jealous", "calm", "bored", "excited", "lonely"]
SIZES = ["tiny", "small", "medium", "large", "huge", "giant"]
GOOD = ["great", "excellent", "wonderful", "lovely", "superb", "fantastic", "perfect", "brilliant", "delightful", "pleasant", "amazing", "helpful", "friendly", "fast", "reliable"]
BAD = ["awful", "terrible", "horrible", "poor", "dreadful", "useless", "rude", "slow", "broken", "dirty", "boring", "annoying", "disappointing", "noisy", "faulty"]

CATEGORIES: dict[str, list[str]] = {
    "animal": ANIMALS, "food": FOODS, "drink": DRINKS, "colour": COLOURS, "city": CITIES, "sport": SPORTS, "job": JOBS, "tree": TREES,
    "metal": METALS, "flower": FLOWERS, "family": FAMILY, "shape": SHAPES, "room": ROOMS, "instrument": INSTRUMENTS, "tool": TOOLS,
    "clothing": CLOTHES, "vehicle": VEHICLES, "feeling": EMOTIONS, "month": MONTHS, "weekday": DAYS, "body part": BODY,
    "school subject": SUBJECTS, "first name": FIRST, "number": NUMBER_WORDS,
}

SYNONYMS = [
    ("buy", "purchase"), ("help", "assist"), ("begin", "start"), ("end", "finish"), ("big", "large"), ("quick", "fast"), ("happy", "glad"),
    ("angry", "cross"), ("fix", "repair"), ("ask", "enquire"), ("get", "receive"), ("send", "dispatch"), ("need", "require"), ("tell", "inform"),
    ("show", "display"), ("choose", "select"), ("check", "verify"), ("wrong", "incorrect"), ("right", "correct"), ("hard", "difficult"),
    ("easy", "simple"), ("smart", "clever"), ("silent", "quiet"), ("sick", "ill"), ("rich", "wealthy"), ("shut", "close"), ("old", "aged"),
    ("broken", "faulty"), ("cheap", "inexpensive"), ("pretty", "beautiful"), ("answer", "reply"), ("present", "gift"), ("error", "mistake"),
    ("trip", "journey"), ("store", "shop"), ("job", "task"), ("doctor", "physician"), ("car", "automobile"), ("stone", "rock"), ("street", "road"),
]
ANTONYMS = [
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("open", "closed"), ("light", "dark"), ("happy", "sad"), ("early", "late"), ("up", "down"),
    ("left", "right"), ("full", "empty"), ("hard", "soft"), ("old", "new"), ("rich", "poor"), ("strong", "weak"), ("wet", "dry"), ("high", "low"),
    ("near", "far"), ("clean", "dirty"), ("loud", "quiet"), ("first", "last"), ("day", "night"), ("true", "false"), ("push", "pull"), ("win", "lose"),
    ("buy", "sell"), ("begin", "end"), ("love", "hate"), ("cheap", "expensive"), ("thick", "thin"), ("wide", "narrow"),
]

ALL_WORDS = sorted({w for words in CATEGORIES.values() for w in words} | set(ITEMS) | set(ADJECTIVES) | set(GOOD) | set(BAD) | set(TEAMS) | set(BRANDS))

_ONSETS = ["b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "bl", "br", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "pl", "pr", "sc", "sh", "sk", "sl", "sm", "sn", "sp", "st", "str", "sw", "th", "tr", "tw", "ch", "qu"]
_NUCLEI = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "au", "ea", "ee", "ei", "ie", "io", "oa", "oo", "ou"]
_CODAS = ["", "", "", "", "b", "d", "g", "k", "l", "m", "n", "p", "r", "s", "t", "x", "ck", "ft", "ld", "lm", "mp", "nd", "ng", "nk", "nt", "rd", "rk", "rn", "sh", "st", "th"]
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def pseudo(rng: Random, syllables: int | None = None) -> str:
    """A pronounceable word that is not in any table, such as `flarnost`."""
    count = syllables or rng.choice((1, 2, 2, 2, 3))
    word = "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(count))
    return word if len(word) > 2 else word + rng.choice("nrstl") + rng.choice("aeo")


def word(rng: Random) -> str:
    """A table word or, one time in three, a pseudo-word."""
    return pseudo(rng) if rng.random() < 0.33 else rng.choice(ALL_WORDS)


def digits(rng: Random, low: int = 2, high: int = 8) -> str:
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def code(rng: Random) -> str:
    """An order number, ticket, serial or booking code in one of many shapes."""
    kind = rng.randrange(12)
    letters = "".join(rng.choice(_LETTERS) for _ in range(rng.randint(1, 4)))
    if kind == 0:
        return digits(rng, 4, 9)
    if kind == 1:
        return f"{letters}-{digits(rng, 3, 6)}"
    if kind == 2:
        return f"{letters}{digits(rng, 3, 6)}"
    if kind == 3:
        return f"#{digits(rng, 3, 7)}"
    if kind == 4:
        return f"{digits(rng, 2, 4)}-{digits(rng, 3, 5)}"
    if kind == 5:
        return f"{letters}-{digits(rng, 2, 3)}-{rng.choice(_LETTERS)}"
    if kind == 6:
        return "".join(rng.choice(_LETTERS + "0123456789") for _ in range(rng.randint(5, 8)))
    if kind == 7:
        return f"{letters}/{digits(rng, 2, 4)}/{digits(rng, 2, 4)}"
    if kind == 8:
        return f"{letters.lower()}_{digits(rng, 2, 5)}"
    if kind == 9:
        return f"{digits(rng, 3, 3)} {digits(rng, 3, 4)}"
    if kind == 10:
        return f"{letters}{digits(rng, 2, 3)}{rng.choice(_LETTERS)}{digits(rng, 1, 3)}"
    return f"{rng.choice(_LETTERS)}{rng.choice(_LETTERS)}-{digits(rng, 4, 7)}"


def version(rng: Random) -> str:
    parts = [str(rng.randint(0, 12)) for _ in range(rng.choice((2, 3, 3, 3, 4)))]
    return rng.choice(("", "", "", "", "v")) + ".".join(parts) + rng.choice(("", "", "", "", "rc1", "-beta", "b2"))


def package(rng: Random) -> str:
    """A made-up name of a program or library: `lornik`, `py-velta`, `stromecho`."""
    stem = pseudo(rng, rng.choice((1, 2, 2)))
    return rng.choice((stem, stem, f"py-{stem}", f"{stem}-{rng.choice(TOOLS)}", f"{stem}_{pseudo(rng, 1)}", f"lib{stem}", stem.capitalize(), f"{stem}.js", f"{stem}-core"))


def person(rng: Random) -> str:
    return rng.choice((rng.choice(FIRST), f"{rng.choice(FIRST)} {rng.choice(LAST)}", f"{rng.choice(('Mr', 'Ms', 'Dr', 'Mrs'))} {rng.choice(LAST)}", f"{pseudo(rng, 2).capitalize()} {rng.choice(LAST)}"))


def place(rng: Random) -> str:
    return pseudo(rng, 2).capitalize() if rng.random() < 0.25 else rng.choice(CITIES)


def product(rng: Random, items: Sequence[str] = ITEMS) -> str:
    """A thing as a customer or a catalogue would call it."""
    item = rng.choice(items)
    kind = rng.randrange(9)
    if kind == 0:
        return item
    if kind == 1:
        return f"{rng.choice(COLOURS)} {item}"
    if kind == 2:
        return f"{rng.choice(BRANDS)} {item}"
    if kind == 3:
        return f"{rng.choice(BRANDS)} {rng.choice(MODELS)}"
    if kind == 4:
        return f"{rng.choice(ADJECTIVES)} {item}"
    if kind == 5:
        return f"{pseudo(rng, 2).capitalize()} {item}"
    if kind == 6:
        return f"{rng.choice(BRANDS)} {rng.choice(MODELS)} {rng.randint(1, 900)}"
    if kind == 7:
        return f"{rng.choice(BRANDS)} {rng.choice(ADJECTIVES)} {item}"
    return f"{pseudo(rng, 2).capitalize()} {rng.choice(MODELS)}"


def date(rng: Random) -> str:
    day, month = rng.randint(1, 28), rng.randrange(12)
    kind = rng.randrange(8)
    if kind == 0:
        return f"{day} {MONTHS[month]}"
    if kind == 1:
        return f"{MONTHS[month]} {day}"
    if kind == 2:
        return f"{rng.randint(1990, 2030)}-{month + 1:02d}-{day:02d}"
    if kind == 3:
        return f"{day}/{month + 1}/{rng.randint(1990, 2030)}"
    if kind == 4:
        return rng.choice(DAYS)
    if kind == 5:
        return f"{rng.choice(('next', 'last', 'this'))} {rng.choice(DAYS)}"
    if kind == 6:
        return f"{day}.{month + 1}."
    return f"{MONTHS[month]} {day}{'th' if 3 < day < 21 or day > 23 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def clock(rng: Random) -> str:
    hour, minute = rng.randint(1, 12), rng.choice(("00", "15", "30", "45", "10", "20"))
    return rng.choice((f"{hour}:{minute}", f"{hour} {rng.choice(('am', 'pm'))}", f"{hour}:{minute} {rng.choice(('am', 'pm'))}", f"{rng.randint(13, 23)}:{minute}", f"{hour} o'clock", f"{hour}{rng.choice(('am', 'pm'))}"))


def price(rng: Random) -> str:
    amount = rng.choice((str(rng.randint(1, 900)), f"{rng.randint(1, 300)}.{rng.choice(('99', '50', '00', '95', digits(rng, 2, 2)))}"))
    return rng.choice((f"${amount}", f"{amount} euros", f"{amount} dollars", f"£{amount}", f"{amount} EUR"))


def email(rng: Random) -> str:
    return f"{rng.choice((rng.choice(FIRST).lower(), pseudo(rng, 2)))}{rng.choice(('', '.', '_'))}{rng.choice((rng.choice(LAST).lower(), digits(rng, 1, 3)))}@{pseudo(rng, 2)}.{rng.choice(('example', 'test', 'org.example'))}"


def count(rng: Random) -> str:
    n = rng.randint(2, 12)
    return rng.choice((str(n), NUMBER_WORDS[n], str(rng.randint(2, 60))))
