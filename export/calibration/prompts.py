"""What a model is asked when it writes its own calibration text: our own questions, of many kinds and languages.

One domain is held out of calibration, so that figures on answers to it say how well a result carries over.
"""

from collections.abc import Mapping

HELD_OUT = "nature"

PROMPTS: Mapping[str, tuple[str, ...]] = {
    "facts": (
        "Who wrote the first computer program, and what was it for?",
        "What is the difference between a virus and a bacterium?",
        "Which countries border Switzerland, and which languages are spoken there?",
        "When did people first fly in a balloon, and what happened to the passengers?",
        "Explain what a central bank does, in words a child would understand.",
        "What were the main causes of the First World War?",
    ),
    "code": (
        "Write a Python function that returns the most frequent word of a text.",
        "Explain what this does: for i in range(len(a) - 1, -1, -1): print(a[i])",
        "Write an SQL query that lists customers who have not ordered since January.",
        "How do I undo my last commit in git without losing my changes?",
        "Write a JavaScript function that debounces another function, with a short comment.",
        'What is wrong with this C code? char *s; scanf("%s", s);',
        "Give me a regular expression for dates such as 2031-07-09, and explain its parts.",
    ),
    "maths": (
        "A train leaves at 14:35 and arrives at 17:10. How long does the journey take?",
        "What is 17 times 24? Show each step.",
        "Solve for x: 3x + 7 = 2x - 5.",
        "If a shirt costs 40 euros after a discount of 20 percent, what did it cost before?",
        "Prove that the sum of two odd numbers is even.",
        "How many different ways are there to order the letters of the word LEVEL?",
    ),
    "stories": (
        "Tell a short story about a lighthouse keeper who finds a message in a bottle.",
        "Write the opening paragraph of a detective novel set in a bakery.",
        "Tell me a story about a small dog that is afraid of the sea.",
        "Write a dialogue between a clock and the cat that sleeps beside it.",
        "Continue: The door had been locked for forty years when",
    ),
    "verse": (
        "Write a short poem about rain on a tin roof.",
        "Write a limerick about a forgetful wizard.",
        "Write a haiku about the last day of school.",
    ),
    "advice": (
        "How can I fall asleep faster?",
        "I have an interview tomorrow and I am nervous. What should I do tonight?",
        "My bicycle chain keeps falling off. What could be the reason?",
        "What should I pack for three days of hiking in autumn?",
        "How do I say no to a friend without hurting them?",
        "Give me a plan for learning to swim as an adult.",
    ),
    "lists": (
        "List ten things that are usually found in a kitchen drawer.",
        "Name five inventions of the nineteenth century, each with its year.",
        "Make a table with three planets, their diameter and their number of moons.",
        "Give me a shopping list for a vegetable soup for four people.",
        "List the steps to change a car tyre.",
    ),
    "rewriting": (
        "Make this more polite: Send me the report now.",
        "Summarize in one sentence: The committee met for three hours, argued about the budget, and agreed on nothing.",
        "Translate into French: The library opens at nine, but the reading room is closed today.",
        "Correct the mistakes: He dont know were the keys is.",
        'Extract the names and dates as JSON: "Ada met Karl on 3 May 2019, and Lin joined them a week later."',
    ),
    "german": (
        "Erkläre mir in einfachen Worten, wie eine Wärmepumpe funktioniert.",
        "Schreibe eine kurze E-Mail, in der ich einen Termin auf nächste Woche verschiebe.",
        "Was sind die Unterschiede zwischen einem Gesetz und einer Verordnung?",
    ),
    "chinese": (
        "请用三句话介绍一下长城的历史。",
        "怎样才能养成早起的习惯?",
        "写一首关于秋天的小诗。",
        "用Python写一个判断质数的函数。",
    ),
    "spanish": (
        "¿Cómo se prepara una tortilla de patatas para cuatro personas?",
        "Explica la diferencia entre ser y estar con dos ejemplos.",
        "Escribe un mensaje para felicitar a una amiga por su nuevo trabajo.",
    ),
    "other languages": (
        "Explique en quelques phrases pourquoi le ciel est bleu.",
        "日本の四季について短く説明してください。",
        "Почему зимой дни короче, чем летом?",
        "اشرح لي باختصار ما هو الذكاء الاصطناعي.",
        "Explique o que é inflação com um exemplo do dia a dia.",
        "서울에서 하루 동안 가볼 만한 곳을 세 군데 추천해 주세요.",
    ),
    "nature": (
        "Why do leaves change colour in autumn?",
        "How do bees find their way back to the hive?",
        "What lives at the bottom of the deep sea?",
        "Describe the life of a river from its spring to its mouth.",
        "Why do some birds fly south in winter, and how do they know the way?",
    ),
}


def calibration_prompts() -> list[str]:
    """Every prompt but those of the domain held out."""
    return [prompt for domain, prompts in PROMPTS.items() if domain != HELD_OUT for prompt in prompts]


def held_out_prompts() -> list[str]:
    """Prompts that no calibration has seen."""
    return list(PROMPTS[HELD_OUT])
