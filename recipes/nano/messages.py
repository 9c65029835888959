"""Messages that people write, by intent, in ten fields of life (banking is left out on purpose: it is a test domain).

A pattern is a sentence with choices `[a|b]` and slots `{code}`; `message` fills it and may add a greeting, context and a closing.
Two intents of each domain are held out for measuring: they never occur in a training row.
"""

# ruff: noqa: E501 (tables and their small makers read better in long lines)

# fmt: off
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from . import words as w

SLOTS: dict[str, Callable[[Random], str]] = {
    "code": w.code, "name": w.person, "city": w.place, "product": w.product, "date": w.date, "time": w.clock, "price": w.price,
    "email": w.email, "num": w.count, "version": w.version, "package": w.package,
    "food": lambda r: r.choice(w.FOODS), "drink": lambda r: r.choice(w.DRINKS), "team": lambda r: r.choice(w.TEAMS),
    "sport": lambda r: r.choice(w.SPORTS), "app": lambda r: r.choice(w.APPS) if r.random() < 0.6 else w.pseudo(r, 2).capitalize(),
    "car": lambda r: r.choice(w.CARS), "body": lambda r: r.choice(w.BODY), "subject": lambda r: r.choice(w.SUBJECTS),
    "animal": lambda r: r.choice(w.ANIMALS), "room": lambda r: r.choice(w.ROOMS), "colour": lambda r: r.choice(w.COLOURS),
}


@dataclass(frozen=True)
class Intent:
    domain: str
    name: str
    """Two or three words, lower case."""
    patterns: tuple[str, ...]
    held_out: bool = False


_TEXT = """
# shop
late parcel: my {product} [has not arrived|still is not here|never came], [it should have been here|it was due] on {date} | where is [my parcel|my package|the {product}]? [I have waited|It has been] {num} days | the tracking for {code} [has not moved|shows nothing new] since {date} | [any news on|when will I get] the {product} I bought? it is [late|overdue]
damaged item: the {product} [arrived|came] [broken|cracked|scratched|in pieces] | when I opened the box the {product} was [damaged|dented|torn] | there is a [big crack|deep scratch|hole] in the {product} you sent | half of the {product} is [smashed|missing], I have photos
wrong item: I [got|received] a {product} [instead of|but I asked for] a {product} | you sent the wrong [colour|size|model], I wanted {colour} | this is not what I ordered, the box has a {product} in it | my parcel {code} has somebody else's {product} in it
return request: I [want|would like] to [return|send back] the {product} | how [can|do] I [return|give back] [a|the] {product} that [does not fit|I do not like]? | the {product} is not for me, I will send it back | please send me a return label for {code}
refund question: when [do|will] I get my money back for {code}? | you still owe me {price} for the {product} I returned | I sent the {product} back on {date} but [no refund yet|the money has not come] | my refund of {price} is missing
price question: how much is the {product}? | is the {product} [cheaper|on sale] [this week|now]? | what does [a|the] {product} cost with delivery to {city}? | does the {price} for the {product} include tax?
stock question: do you have the {product} in {colour}? | when will the {product} be back in stock? | is there [a|any] {product} left in the {city} store? | can I buy {num} of the {product} today?
!gift wrapping: can you wrap the {product} as a present? | please add a [card|ribbon] for {name}, it is a birthday gift | I want the {product} gift wrapped in {colour} paper | is it possible to leave out the bill, it is a surprise for {name}
!discount code: the voucher {code} [does not work|is refused] at checkout | your coupon says {price} off but nothing changes | how do I use the promo code {code}? | I forgot to enter my discount code {code}
# travel
flight delay: our flight to {city} [is|was] delayed by {num} hours | the plane from {city} left late and we missed the next one | why is flight {code} not on time? | they say that {code} to {city} will leave after {time}
lost luggage: my suitcase did not [arrive|come out] in {city} | the airline lost my {colour} bag, tag {code} | I cannot find my luggage since the flight from {city} | our bags are still in {city}, we are in {city}
book hotel: I need a room in {city} [for|from] {date} | book [a double room|a hotel] near the centre of {city} for {num} nights | find me a [quiet|cheap|nice] hotel in {city} with breakfast | can you reserve {num} rooms in {city} under {name}?
cancel trip: please cancel my trip to {city} on {date} | we cannot travel to {city} any more, call it off | I have to cancel booking {code} | drop my reservation in {city}, {name} is ill
seat change: I would like a window seat on {code} | can we sit together on the flight to {city}? | change my seat to the aisle please | move me to the front of the plane
train times: when does the [next|last|first] train to {city} leave? | what time is the train from {city} to {city}? | is there a train to {city} at {time}? | how long does the train to {city} take?
visa question: do I need a visa for {city}? | which papers do I need to enter the country? | my passport ends on {date}, can I still travel? | how long does a visa take?
!airport transfer: is there a [bus|shuttle|taxi] from the airport to our hotel in {city}? | please pick up {name} at the airport at {time} | how do we get from the airport into {city}? | we land at {time} and need a ride for {num} people
!travel insurance: does the policy cover a broken leg while skiing? | I want to insure my journey to {city} | am I covered if my camera is stolen in {city}? | which insurance do I need for {num} weeks abroad?
# software
login problem: I cannot [log in|sign in] to {app} [any more|since {date}] | {app} says my password is wrong | I am locked out of my {app} account {email} | the sign in page of {app} [keeps loading|turns me away]
app crash: {app} [crashes|closes|freezes] when I open [a file|the camera|settings] | after the update to {version} {app} stops at once | the program dies with error {code} | {app} hangs every time I [print|save|scroll]
feature wish: it would be [nice|great] if {app} could [export|import|print] tables | please add a dark mode to {app} | I wish {app} had [tabs|shortcuts|folders] | could you let us sort by date in {app}?
install help: how do I install {app} on a {product}? | the setup of {app} {version} stops halfway | where can I get the installer for {package}? | I tried to install {package} {version} and it asks for a key
slow program: {app} is [very|so] slow since version {version} | it takes {num} minutes to open a file in {app} | why does {app} need so much memory? | searching in {app} takes ages
data lost: all my [notes|photos|files] in {app} are gone | {app} deleted the work I did on {date} | my project {code} is empty after the update | I cannot find the file that I saved in {app}
license question: how many computers may I use {app} on? | my licence key {code} has run out | is {package} free for schools? | do I need a new licence for {version}?
!wrong translation: the {app} menu shows the wrong language | the word for print is badly translated in {app} | the French text in {app} makes no sense | there are spelling mistakes in the help of {app}
!security report: I found a hole in {package} {version} that lets anyone read files | a stranger can reset passwords in {app} | {package} before {version} does not check the input | someone could run code through {package}
# sports
match result: who won between the {team} and the {team}? | did the {team} [win|lose] on {date}? | what was the score of the {team} game? | the {team} beat the {team} by {num} points
buy tickets: I want {num} tickets for the {team} on {date} | how much are seats for the {sport} final? | are there tickets left for the {team} game? | please get me into the {sport} match in {city}
player news: {name} will leave the {team} | the {team} signed {name} for {price} | is it true that {name} joins the {team}? | {name} is the new captain of the {team}
training plan: how often should I train for {sport}? | make me a plan for {num} weeks of {sport} | what should I do to get better at {sport}? | I want to run {num} miles by {date}
injury report: {name} hurt a {body} and will miss {num} games | the {team} star is out with a bad {body} | {name} was carried off with a {body} injury | will {name} be fit again by {date}?
rule question: how many players are there in {sport}? | is it allowed to touch the ball in {sport}? | what does offside mean? | how long is a game of {sport}?
!club membership: I want to join the {sport} club in {city} | how do I leave the {team} fan club? | what does it cost to be a member for a year? | my membership card {code} is no longer valid
!equipment advice: which shoes are good for {sport}? | what racket should a beginner buy? | I need a helmet for {sport}, any ideas? | is a {price} bat good enough to start?
# food
order food: I would like {num} {food} and a {drink} | bring me the {food} [with|without] {food} please | can I get a large {food} for {time}? | one {drink} and two portions of {food} to {city} street
table booking: a table for {num} at {time} please | can we book for {date} under {name}? | do you have room for {num} people on {date}? | we would like to come for dinner on {date}
recipe question: how do I make {food} with {food}? | how long must {food} stay in the oven? | what can I cook with {food} and {food}? | do I need eggs for {food}?
allergy question: is there [nut|milk|gluten] in the {food}? | {name} cannot eat {food}, what else is there? | does the {food} contain eggs? | I am allergic to {food}, is the {food} safe?
food complaint: the {food} was cold [and|,] [dry|salty|burnt] | my {food} had a hair in it | we waited {num} minutes for a bad {food} | the {drink} tasted of soap
praise cook: the {food} was [wonderful|delicious|perfect], thank you | please tell the cook that the {food} was great | best {food} in {city} | we loved the {food} and the {drink}
opening hours: when do you [open|close] on {date}? | are you open at {time}? | is the kitchen still open? | do you serve {food} for breakfast on {date}?
!diet advice: how can I eat less {food}? | is {food} good when you want to lose weight? | how many calories has a {food}? | what should I eat before {sport}?
!catering request: we need {food} for {num} guests at our wedding | can you deliver lunch to our office in {city} on {date}? | what would a buffet for {num} people cost? | please cook for our party at {time}
# weather
rain forecast: will it rain in {city} on {date}? | do I need an umbrella in {city}? | heavy rain is expected over {city} at {time} | how much rain will fall on {date}?
heat warning: it will be far too hot in {city} on {date} | stay inside, {num} degrees are expected | the heat in {city} will last until {date} | how hot does it get in {city}?
snow report: is there snow in {city}? | the road to {city} is closed by snow | {num} inches of snow fell on {date} | will it snow before {date}?
storm damage: the storm broke {num} roofs in {city} | a tree fell on our {car} in the storm | strong wind blew away the {product} | after the storm there is no power in {city}
!fog notice: thick fog covers {city} this morning | you can hardly see the road near {city} | ships wait outside {city} because of fog | the fog will lift by {time}
# school
homework help: I do not understand the {subject} homework for {date} | how do I solve task {num} in {subject}? | can someone explain page {num} of the {subject} book? | my {subject} essay is due on {date} and I am stuck
exam date: when is the {subject} exam? | is the {subject} test on {date}? | has the exam been moved to {date}? | which chapters are in the {subject} test?
sick note: {name} is ill and cannot come to school on {date} | please excuse my son, he has a fever | my daughter {name} will miss {subject} today | {name} has a sore {body} and stays at home
grade question: why did I only get {num} points in {subject}? | when do we get our {subject} marks? | I think my {subject} grade is wrong | {name} failed {subject}, what now?
course signup: I want to take {subject} next year | how can I join the {subject} class of {name}? | is the {subject} course full? | sign me up for {subject} on {date}
school trip: how much is the class trip to {city}? | {name} may come on the trip to {city} | when does the bus to {city} leave? | what should the children take to {city}?
!library book: the book {code} is overdue | can I keep the {subject} book until {date}? | I lost a library book about {subject} | please reserve the new book by {name}
!teacher meeting: I would like to talk to {name} about my child | can the parents meet {name} at {time}? | when is the next parents' evening? | I need an appointment with the {subject} teacher
# health
see doctor: I need an appointment with {name} on {date} | can I see a doctor [today|at {time}]? | is {name} free on {date}? | please book me a check-up in {city}
pain report: my {body} hurts [since {date}|when I walk] | I have a [sharp|dull] pain in my {body} | my {body} is swollen and hot | it hurts when I move my {body}
medicine question: how many pills a day should I take? | can I take it with {drink}? | I lost my tablets {code} | should I take the medicine before I eat?
test results: are my blood results in? | when will I know the result of the test of {date}? | the lab said that report {code} is ready | what does the value {num} mean?
sleep trouble: I cannot sleep [for {num} nights|at night] | I wake up at {time} every night | how can I sleep better without pills? | the noise keeps me awake
vaccination: do I need a jab before going to {city}? | when is {name}'s next vaccination? | I want a flu shot on {date} | my arm is red after the injection
!glasses order: are my new glasses ready? | I cannot see well with the lenses you made | I want a {colour} frame, number {code} | my eyes need to be tested
!dentist visit: a filling fell out on {date} | my tooth aches when I drink {drink} | I need my teeth cleaned | please check the braces of {name}
# cars
car repair: my {car} makes a strange noise [when I brake|at {time}] | the engine of the {car} will not start | can you fix the brakes of my {car}? | there is oil under the {car}
rent car: I want to rent a {car} in {city} from {date} | how much is a {car} for {num} days? | do you have a {car} with {num} seats? | please keep the rental {code} for {name}
parking fine: I got a ticket for {price} in {city} | the fine {code} is not mine | where can I pay a parking ticket? | I only parked for {num} minutes
fuel price: petrol costs {price} in {city} | where is the cheapest diesel? | why did fuel go up on {date}? | filling the {car} was {price}
traffic jam: there is a long jam near {city} | the road to {city} is blocked | we stand still for {num} minutes outside {city} | an accident closed the bridge at {time}
sell car: I want to sell my {colour} {car} | what is my {car} from {num} years ago worth? | {car} for sale, {price} | will you buy my old {car}?
!tyre change: I need winter tyres on my {car} | one tyre is flat | how often should tyres be changed? | please rotate the wheels of the {car}
!driving lesson: I want to learn to drive in {city} | how many lessons do I need before the test? | can {name} teach me on {date}? | my driving test is on {date}
# home
rent due: the rent for {room} {num} is late | I paid {price} rent on {date} | when must the rent be paid? | may I pay the rent on {date}?
water leak: water is dripping from the {room} ceiling | the pipe in the {room} [burst|leaks] | the {room} floor is wet again | the tap in the {room} cannot be closed
noise complaint: the neighbours play music until {time} | the dog next door barks all night | there is drilling above us since {time} | {name} upstairs is far too loud
power cut: there is no light in the {room} | the electricity went off at {time} | none of our sockets work | the whole street is dark since {time}
move house: we are moving to {city} on {date} | I need {num} boxes and a {car} for the move | my new address is in {city} | help me carry the {product} to {city}
cleaning help: can someone clean the {room} on {date}? | I need a cleaner for {num} hours | the windows in the {room} are dirty | who washes the stairs this week?
garden work: the grass needs cutting | please plant roses by the fence | a branch hangs over the {room} | who can trim our hedge on {date}?
!lost key: I lost the key to the {room} | I am locked out, my keys are inside | I need {num} new keys | the lock of the {room} is stuck
!pest problem: there are mice in the {room} | ants walk across the {room} | I saw a rat near the bins | how do I get rid of wasps?
# office
meeting time: can we meet at {time} on {date}? | move the meeting with {name} to {time} | is the meeting still on? | who joins the call at {time}?
leave request: I would like {num} days off from {date} | may I take {date} off? | I will be on holiday until {date} | please approve my leave {code}
invoice question: invoice {code} is wrong | please send the bill for {price} again | when will you pay {code}? | there is no number on the invoice of {date}
hire person: we look for a [cook|driver|clerk] in {city} | {name} applied for the job | the interview with {name} is at {time} | can you start on {date}?
office supplies: we are out of paper | order {num} {product}s for the team | the printer needs ink | my chair is broken, I need a new one
praise staff: {name} did a great job | thank you {name}, you saved the day | I am very happy with the work of {name} | our team in {city} was superb
quit job: I am leaving the company on {date} | please accept my resignation | {name} will not work here after {date} | I found another job in {city}
!business trip: I must go to {city} for work on {date} | who pays for my stay in {city}? | please approve the trip {code} | my travel costs were {price}
!network outage: the wifi in the {room} is down | nobody here can reach the server {code} | we have had no internet since {time} | the office network is dead
"""

GREETINGS = ("Hi, ", "Hello, ", "Hello there, ", "Hey, ", "Good morning, ", "Dear team, ", "Hi team, ", "Dear Sir or Madam, ", "Hello. ", "Hi! ", "Good evening. ", "To whom it may concern: ")
CONTEXT = (
    "My name is {name}.", "I am writing from {city}.", "You can reach me at {email}.", "My number is {code}.", "I tried twice already.",
    "This is the second time that I write.", "I have been a customer for {num} years.", "It started on {date}.", "I need it by {date}.",
    "The reference is {code}.", "I spoke to {name} about it.", "I paid {price}.", "It is for my friend {name}.", "We are in {city} until {date}.",
    "I called at {time} but nobody answered.", "I am not in a hurry.", "This is urgent!", "It is really important to me.", "No rush.",
    "I am quite upset.", "Everything else was fine.", "I use a {product}.", "My file number is {code}.", "It is about the {product}.",
)
CLOSINGS = (
    "Thanks!", "Thank you.", "Please help.", "Please answer soon.", "Kind regards, {name}", "Best, {name}", "Cheers", "Many thanks, {name}", "Regards",
    "Can you help me?", "What should I do?", "Let me know.", "I hope to hear from you.", "Yours, {name}", "thx",
)

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


def _parse(text: str) -> tuple[Intent, ...]:
    intents, domain = [], ""
    for line in text.strip().splitlines():
        if line.startswith("# "):
            domain = line[2:]
            continue
        name, _, patterns = line.partition(": ")
        # A choice also uses the bar, so split only at bars that stand between spaces.
        intents.append(Intent(domain, name.lstrip("!"), tuple(p.strip() for p in patterns.split(" | ")), name.startswith("!")))
    return tuple(intents)


INTENTS = _parse(_TEXT)
TRAIN = tuple(i for i in INTENTS if not i.held_out)
HELD_OUT = tuple(i for i in INTENTS if i.held_out)


def fill(
    rng: Random,
    pattern: str,
    slots: list[tuple[str, str]] | None = None,
    product: Callable[[Random], str] = w.product,
) -> str:
    """The pattern with its choices and slots drawn; (slot, value) pairs are appended to `slots` in order of the text."""
    while "[" in pattern:
        pattern = _CHOICE.sub(lambda m: rng.choice(m[1].split("|")), pattern)

    def draw(match: re.Match[str]) -> str:
        value = product(rng) if match[1] == "product" else SLOTS[match[1]](rng)
        if slots is not None:
            slots.append((match[1], value))
        return value

    return _SLOT.sub(draw, pattern)


def message(
    rng: Random,
    intent: Intent,
    extra: float = 0.5,
    slots: list[tuple[str, str]] | None = None,
    product: Callable[[Random], str] = w.product,
) -> str:
    """One message of an intent; `extra` is the chance of each of greeting, context and closing."""
    style = rng.randrange(4)
    core = fill(rng, rng.choice(intent.patterns), slots, product)
    if style != 3:  # one in four stays in lower case, as people type
        core = core[0].upper() + core[1:]
    if core[-1] not in ".?!":
        core += rng.choice((".", ".", ".", "!", "", "..."))
    parts = [core]
    if rng.random() < extra:
        parts.append(fill(rng, rng.choice(CONTEXT), slots, product))
        if rng.random() < extra / 2:
            parts.append(fill(rng, rng.choice(CONTEXT), slots, product))
        if rng.random() < 0.25:  # context before the matter; the order of `slots` is then not that of the text
            parts.reverse()
    if rng.random() < extra:
        parts.append(fill(rng, rng.choice(CLOSINGS), slots, product))
    text = " ".join(parts)
    return rng.choice(GREETINGS) + text if rng.random() < extra / 1.5 else text
