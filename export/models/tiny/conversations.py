"""Made-up conversations that teach the tiny model to chat.

A model of two million parameters learns a form, not the world: so the questions come from small closed tables
(animals, numbers, days, capitals, ...) asked in many ways, and the stories from a grammar with many choices. Everything
here was written for this project, so that the weights carry no licence but ours and that of the plain text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

Message = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question with its answer, and what the model thinks in between."""

    question: str
    thought: str
    answer: str


# name, kind, legs, food, sound, home, colour, young
ANIMALS = (
    ("cow", "farm animal", 4, "grass", "moo", "a farm", "brown and white", "calf"),
    ("dog", "pet", 4, "meat and bones", "woof", "a house", "brown", "puppy"),
    ("cat", "pet", 4, "fish and mice", "meow", "a house", "grey", "kitten"),
    ("horse", "farm animal", 4, "hay and oats", "neigh", "a stable", "brown", "foal"),
    ("sheep", "farm animal", 4, "grass", "baa", "a field", "white", "lamb"),
    ("pig", "farm animal", 4, "roots and corn", "oink", "a farm", "pink", "piglet"),
    ("duck", "bird", 2, "water plants", "quack", "a pond", "green and brown", "duckling"),
    ("hen", "bird", 2, "seeds", "cluck", "a barn", "red", "chick"),
    ("owl", "bird", 2, "mice", "hoot", "a hollow tree", "brown", "owlet"),
    ("frog", "small animal", 4, "flies", "croak", "a pond", "green", "tadpole"),
    ("bee", "insect", 6, "nectar", "buzz", "a hive", "yellow and black", "larva"),
    ("lion", "wild animal", 4, "meat", "roar", "the grassland", "golden", "cub"),
    ("bear", "wild animal", 4, "fish and berries", "growl", "the forest", "brown", "cub"),
    ("fox", "wild animal", 4, "mice and berries", "bark", "a den", "red", "kit"),
    ("wolf", "wild animal", 4, "meat", "howl", "the forest", "grey", "pup"),
    ("mouse", "small animal", 4, "seeds and cheese", "squeak", "a hole", "grey", "pup"),
    ("snake", "reptile", 0, "mice", "hiss", "the grass", "green", "hatchling"),
    ("goat", "farm animal", 4, "leaves and grass", "bleat", "the hills", "white", "kid"),
    ("crow", "bird", 2, "seeds and insects", "caw", "a tall tree", "black", "chick"),
    ("spider", "small animal", 8, "flies", "nothing", "a web", "black", "spiderling"),
)

OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("day", "night"), ("up", "down"), ("left", "right"),
    ("wet", "dry"), ("light", "dark"), ("open", "closed"), ("happy", "sad"), ("old", "new"), ("full", "empty"),
    ("hard", "soft"), ("high", "low"), ("rich", "poor"), ("loud", "quiet"), ("strong", "weak"), ("early", "late"),
)  # fmt: skip

CAPITALS = (
    ("France", "Paris"), ("England", "London"), ("Spain", "Madrid"), ("Italy", "Rome"), ("Germany", "Berlin"),
    ("Japan", "Tokyo"), ("China", "Beijing"), ("Egypt", "Cairo"), ("Greece", "Athens"), ("Norway", "Oslo"),
    ("Russia", "Moscow"), ("Ireland", "Dublin"), ("Austria", "Vienna"), ("Cuba", "Havana"), ("Kenya", "Nairobi"),
    ("Peru", "Lima"), ("Poland", "Warsaw"), ("Portugal", "Lisbon"),
)  # fmt: skip

COLOURS = (
    ("the sky", "blue"), ("grass", "green"), ("snow", "white"), ("blood", "red"), ("the sun", "yellow"),
    ("coal", "black"), ("a lemon", "yellow"), ("a ripe tomato", "red"), ("the sea", "blue"), ("milk", "white"),
    ("a leaf", "green"), ("an orange", "orange"), ("gold", "yellow"), ("a carrot", "orange"), ("the night", "black"),
)  # fmt: skip

THINGS = (
    ("a kettle", "a pot for boiling water"), ("a hammer", "a tool for driving nails"),
    ("a boat", "a thing that floats and carries people over water"), ("a key", "a small tool that opens a lock"),
    ("a bridge", "a road that goes over water"), ("a lamp", "a thing that gives light"),
    ("a clock", "a thing that shows the time"), ("a book", "many pages of words bound together"),
    ("a river", "water that flows to the sea"), ("a garden", "a place where plants grow"),
    ("a baker", "a person who makes bread"), ("a farmer", "a person who grows food"),
    ("a doctor", "a person who helps the sick"), ("a teacher", "a person who helps others to learn"),
    ("a king", "a man who rules a land"), ("rain", "water that falls from the clouds"),
)  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
NAMES = (
    "Anna", "Tom", "Lucy", "Peter", "Mary", "Jack", "Rosa", "Sam", "Nora", "Ben", "Ella", "Max", "Ruth", "Paul",
    "Clara", "David",
)  # fmt: skip

HERO_KINDS = ("girl", "boy", "farmer", "baker", "shepherd", "fisherman", "king", "queen", "old man", "old woman")
ADJECTIVES = ("small", "brave", "kind", "young", "happy", "quiet", "clever", "poor", "gentle", "curious")
PLACES = ("by the sea", "in a green valley", "near a dark forest", "on a high hill", "in a small town", "by a river")
FINDS = ("a golden key", "a lost lamb", "an old map", "a bright stone", "a little bird", "a red boat", "a silver ring")
WHERE_FOUND = ("under a tree", "on the road", "beside the well", "in the garden", "near the old bridge", "in the snow")
HELPERS = ("a friendly fox", "a wise owl", "an old dog", "a white horse", "a tiny mouse", "a singing frog")
TROUBLES = (
    "a great storm came over the land", "the river rose and covered the road", "night fell and the way was lost",
    "the wind blew out the lamp", "a heavy snow began to fall", "the bridge broke in two",
)  # fmt: skip
HELP = (
    "showed the safe way home", "carried the bag over the water", "called all the other animals",
    "sat close and kept everyone warm", "found a dry place to rest", "lit a small fire",
)  # fmt: skip
ENDINGS = (
    "From that day on they were the best of friends.", "Everyone in the town was glad, and they ate together.",
    "And they lived in peace for many years.", "It was the best day of the whole year.",
    "So the long day ended well, and all slept soundly.",
)  # fmt: skip
LESSONS = (
    "a kind heart is worth more than gold", "a friend in need is a true friend", "small steps can go a long way",
    "it is good to ask for help", "what we share grows",
)  # fmt: skip


def article(noun: str) -> str:
    """The noun with `a` or `an` before it."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def animal_fact(rng: Random) -> Turn:
    """A fact from the table of animals."""
    name, kind, legs, food, sound, home, colour, young = rng.choice(ANIMALS)
    one = article(name)
    legs_text = f"{NUMBERS[legs].capitalize()}" if legs else "No"
    sound_text = f"{one.capitalize()} says {sound}." if sound != "nothing" else f"{one.capitalize()} makes no sound."
    questions = (
        (f"What does {one} eat?", f"{one.capitalize()} eats {food}."),
        (f"What do you feed {one}?", f"{one.capitalize()} eats {food}."),
        (f"What sound does {one} make?", sound_text),
        (f"What does {one} say?", sound_text),
        (f"How many legs does {one} have?", f"{one.capitalize()} has {legs_text.lower()} legs."),
        (f"Where does {one} live?", f"{one.capitalize()} lives in {home}."),
        (f"What colour is {one}?", f"{one.capitalize()} is often {colour}."),
        (f"What is {one}?", f"{one.capitalize()} is {article(kind)}."),
        (f"What is a young {name} called?", f"A young {name} is called {article(young)}."),
        (
            f"Tell me about the {name}.",
            f"The {name} is {article(kind)}. It has {legs_text.lower()} legs and lives in {home}. It eats {food}.",
        ),
    )
    question, answer = rng.choice(questions)
    return Turn(question=question, thought=f"This is a question about the {name}.", answer=answer)


def opposite(rng: Random) -> Turn:
    """The opposite of a word."""
    first, second = rng.sample(rng.choice(OPPOSITES), 2)
    question = rng.choice((f"What is the opposite of {first}?", f"Give me the opposite of {first}."))
    answer = f"The opposite of {first} is {second}."
    return Turn(question=question, thought=f"I need the opposite of {first}.", answer=answer)


def capital(rng: Random) -> Turn:
    """The capital of a country, or the country of a capital."""
    country, city = rng.choice(CAPITALS)
    question, answer = rng.choice(
        (
            (f"What is the capital of {country}?", f"The capital of {country} is {city}."),
            (f"Which city is the capital of {country}?", f"The capital of {country} is {city}."),
            (f"Where is {city}?", f"{city} is in {country}. It is the capital."),
        )
    )
    return Turn(question=question, thought=f"This is about {country} and {city}.", answer=answer)


def colour(rng: Random) -> Turn:
    """The colour of a thing."""
    thing, hue = rng.choice(COLOURS)
    question = rng.choice((f"What colour is {thing}?", f"Which colour does {thing} have?", f"What color is {thing}?"))
    return Turn(question=question, thought=f"I think of {thing}.", answer=f"{thing.capitalize()} is {hue}.")


def meaning(rng: Random) -> Turn:
    """What a thing is."""
    thing, sense = rng.choice(THINGS)
    question = rng.choice((f"What is {thing}?", f"Can you explain what {thing} is?"))
    return Turn(question=question, thought=f"I can say what {thing} is.", answer=f"{thing.capitalize()} is {sense}.")


def calendar(rng: Random) -> Turn:
    """A neighbour in the week or the year."""
    kind, names = rng.choice((("day", DAYS), ("month", MONTHS)))
    index = rng.randrange(len(names))
    here, after, before = names[index], names[(index + 1) % len(names)], names[index - 1]
    question, answer = rng.choice(
        (
            (f"What {kind} comes after {here}?", f"{after} comes after {here}."),
            (f"Which {kind} is next after {here}?", f"{after} comes after {here}."),
            (f"What {kind} comes before {here}?", f"{before} comes before {here}."),
        )
    )
    return Turn(question=question, thought=f"The {kind} in the question is {here}.", answer=answer)


def days_and_months(rng: Random) -> Turn:
    """The whole week or year in order."""
    kind, names = rng.choice((("days of the week", DAYS), ("months of the year", MONTHS)))
    listing = ", ".join(names[:-1]) + " and " + names[-1]
    question, answer = rng.choice(
        (
            (f"Name the {kind}.", f"The {kind} are {listing}."),
            (f"How many {kind} are there?", f"There are {NUMBERS[len(names)]} {kind}."),
        )
    )
    return Turn(question=question, thought=f"I know the {kind}.", answer=answer)


def arithmetic(rng: Random) -> Turn:
    """A small sum, in figures or in words."""
    if rng.random() < 0.6:
        left, right = rng.randint(0, 5), rng.randint(0, 5)
        sign, word, result = "+", "plus", left + right
    else:
        left = rng.randint(0, 6)
        right = rng.randint(0, left)
        sign, word, result = "-", "minus", left - right
    if rng.random() < 0.5:
        question = rng.choice((f"What is {left} {sign} {right}?", f"{left} {sign} {right} = ?"))
        return Turn(
            question=question, thought=f"I work out {left} {sign} {right}.", answer=f"{left} {sign} {right} = {result}."
        )
    sum_in_words = f"{NUMBERS[left]} {word} {NUMBERS[right]}"
    question = rng.choice((f"What is {sum_in_words}?", f"How much is {sum_in_words}?"))
    answer = f"{sum_in_words.capitalize()} is {NUMBERS[result]}."
    return Turn(question=question, thought=f"I work out {sum_in_words}.", answer=answer)


def counting(rng: Random) -> Turn:
    """Numbers in order, up or down."""
    low, high = sorted(rng.sample(range(11), 2))
    numbers = list(range(low, high + 1))
    if rng.random() < 0.3:
        numbers.reverse()
    question = rng.choice(
        (f"Count from {numbers[0]} to {numbers[-1]}.", f"Please count from {numbers[0]} to {numbers[-1]}.")
    )
    thought = f"I start at {numbers[0]} and stop at {numbers[-1]}."
    return Turn(question=question, thought=thought, answer=", ".join(map(str, numbers)) + ".")


def greeting(rng: Random) -> Turn:
    """Small talk."""
    question, answer = rng.choice(
        (
            ("Hello!", "Hello! How can I help you today?"),
            ("Hello", "Hello! How can I help you today?"),
            ("Hi", "Hello! How can I help you today?"),
            ("Hi there!", "Hello! How can I help you today?"),
            ("Good morning!", "Good morning! How can I help you today?"),
            ("Good evening!", "Good evening! How can I help you today?"),
            ("How are you?", "I am well, thank you. How can I help you?"),
            ("Who are you?", "I am a tiny language model. I know a few simple things."),
            ("What are you?", "I am a tiny language model. I know a few simple things."),
            ("What is your name?", "I am a tiny language model and I have no name."),
            ("What can you do?", "I can answer simple questions, count, and tell short stories."),
            ("Can you help me?", "Yes. Ask me about animals, numbers, days or places."),
            ("Thank you!", "You are welcome."),
            ("Thanks", "You are welcome."),
            ("Goodbye!", "Goodbye! Have a good day."),
            ("Bye", "Goodbye! Have a good day."),
        )
    )
    return Turn(question=question, thought="The user is being friendly.", answer=answer)


def story(rng: Random) -> Turn:
    """A short story from the grammar."""
    name, kind, adjective = rng.choice(NAMES), rng.choice(HERO_KINDS), rng.choice(ADJECTIVES)
    place, find, where = rng.choice(PLACES), rng.choice(FINDS), rng.choice(WHERE_FOUND)
    helper, trouble, helped, ending = rng.choice(HELPERS), rng.choice(TROUBLES), rng.choice(HELP), rng.choice(ENDINGS)
    the_helper = "the " + helper.split(" ", 1)[1]
    opening = rng.choice(("Once upon a time", "Long ago", "Many years ago"))
    sentences = [
        f"{opening} there was {article(adjective)} {kind} named {name} who lived {place}.",
        rng.choice((f"One day {name} found {find} {where}.", f"One morning {name} saw {find} {where}.")),
        rng.choice((f"{name} took it home with great care.", f'"What is this?" said {name}.', "")),
        f"But then {trouble}.",
        rng.choice((f"{name} was afraid, but {helper} came and {helped}.", f"Then {helper} came and {helped}.")),
        rng.choice((f'"Thank you," said {name} to {the_helper}.', f"{name} gave {the_helper} some bread.", "")),
        ending,
    ]
    if rng.random() < 0.3:
        sentences.append(f"This story teaches us that {rng.choice(LESSONS)}.")
    question, subject = rng.choice(
        (
            ("Tell me a story.", f"a {kind}"),
            ("Tell me a short story.", f"a {kind}"),
            (f"Tell me a story about {name}.", name),
            (f"Write a short story about {article(kind)} named {name}.", name),
            (f"Tell me a story about {article(kind)}.", article(kind)),
        )
    )
    thought = f"I will tell a story about {article(subject[2:]) if subject.startswith('a ') else subject}."
    return Turn(question=question, thought=thought, answer=" ".join(s for s in sentences if s))


def listing(rng: Random) -> Turn:
    """Three things of a kind."""
    kind, items = rng.choice(
        (
            ("animals", [a[0] for a in ANIMALS]),
            ("colours", ["red", "blue", "green", "yellow", "black", "white", "brown", "orange"]),
            ("cities", [city for _, city in CAPITALS]),
            ("countries", [country for country, _ in CAPITALS]),
            ("fruits", ["apples", "pears", "grapes", "figs", "plums", "lemons", "oranges"]),
            ("names", list(NAMES)),
        )
    )
    count = rng.randint(2, 4)
    chosen = rng.sample(items, count)
    listed = ", ".join(chosen[:-1]) + " and " + chosen[-1]
    question = rng.choice((f"Name {NUMBERS[count]} {kind}.", f"Give me {NUMBERS[count]} {kind}."))
    thought = f"I need {NUMBERS[count]} {kind}."
    return Turn(question=question, thought=thought, answer=f"Here are {NUMBERS[count]} {kind}: {listed}.")


SINGLE: Sequence[tuple[Callable[[Random], Turn], float]] = (
    (animal_fact, 6), (opposite, 2), (capital, 2), (colour, 1.5), (meaning, 1.5), (calendar, 2.5),
    (days_and_months, 0.4), (arithmetic, 2.5), (counting, 1), (greeting, 2), (story, 1.5), (listing, 1),
)  # fmt: skip


def single(rng: Random) -> Turn:
    """A turn that needs no earlier one."""
    makers, weights = zip(*SINGLE, strict=True)
    maker: Callable[[Random], Turn] = rng.choices(makers, weights)[0]
    return maker(rng)


def remembered(rng: Random) -> list[Turn]:
    """Two turns, or three, where the last asks for what the first said."""
    name, animal = rng.choice(NAMES), rng.choice(ANIMALS)[0]
    topic = rng.choice(("name", "animal"))
    if topic == "name":
        opening = rng.choice((f"My name is {name}.", f"I am {name}.", f"Hello, my name is {name}."))
        first = Turn(
            question=opening, thought=f"The user is called {name}.", answer=f"Hello {name}! It is nice to meet you."
        )
        last = Turn(question="What is my name?", thought=f"The user is called {name}.", answer=f"Your name is {name}.")
    else:
        first = Turn(
            question=f"I have {article(animal)}.",
            thought=f"The user has {article(animal)}.",
            answer=f"How nice! {article(animal).capitalize()} is a good friend.",
        )
        last = Turn(
            question="What animal do I have?",
            thought=f"The user has {article(animal)}.",
            answer=f"You have {article(animal)}.",
        )
    middle = [single(rng)] if rng.random() < 0.3 else []
    return [first, *middle, last]


def conversation(rng: Random, *, thinking: bool) -> list[Message]:
    """The messages of one conversation; the thoughts are left empty unless thinking."""
    roll = rng.random()
    if roll < 0.12:
        turns = remembered(rng)
    else:
        turns = [single(rng) for _ in range(1 if roll < 0.65 else 2 if roll < 0.9 else 3)]
    messages: list[Message] = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": "You are a helpful assistant."})
    for turn in turns:
        messages.append({"role": "user", "content": turn.question})
        thought = turn.thought if thinking else ""
        messages.append({"role": "assistant", "reasoning_content": thought, "content": turn.answer})
    return messages
