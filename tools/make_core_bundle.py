"""Write gpt2course/core_bundle/, the small bundle behind mini-CORE: seven tasks in the layout of the CORE bundle.

    python tools/make_core_bundle.py [folder]

All of it is written for this course, for a model that has read a few megabytes of addresses and encyclopaedia leads for
some minutes. Where there are options, they are balanced, so that a model which ignores the question scores exactly its
baseline: the same options are right in turn. The script is deterministic, and a test holds its output to be the
packaged files.
"""

import json
import random
import sys
from pathlib import Path

from gpt2course.files import atomic_file

# agreement: (one, many) of a subject. In the first eight the noun nearest to the verb has the other number, in the rest
# the same one, so that a model which looks only at the nearest noun is right half the time.
SUBJECTS = [
    ("The leader of the armies", "The leaders of the army"),
    ("The owner of the farms", "The owners of the farm"),
    ("The writer of these letters", "The writers of this letter"),
    ("The friend of my brothers", "The friends of my brother"),
    ("The judge in these cases", "The judges in this case"),
    ("The woman near the gates", "The women near the gate"),
    ("The doctor from the islands", "The doctors from the island"),
    ("The soldier on the walls", "The soldiers on the wall"),
    ("The member of the council", "The members of both councils"),
    ("The captain of the ship", "The captains of the ships"),
    ("The teacher of the girl", "The teachers of the girls"),
    ("The man with the horse", "The men with the horses"),
    ("The child of the farmer", "The children of the farmers"),
    ("The worker in the mine", "The workers in the mines"),
    ("The guest of the lady", "The guests of the ladies"),
    ("The agent of the company", "The agents of the companies"),
]
PREDICATES = [
    ("was", "were", "not at home that day."),
    ("has", "have", "never been to the city."),
    ("is", "are", "ready to help."),
    ("does", "do", "not agree with the plan."),
    ("was", "were", "born in a small town."),
    ("has", "have", "asked for more time."),
    ("is", "are", "waiting for an answer."),
    ("does", "do", "not want to leave."),
]

# word_order: exchanging one of these words with the next one makes none of these sentences another English sentence
FUNCTION_WORDS = "the a of to in on by for from with at through against near".split()
OPENINGS = ["In that year", "After the war", "At that time", "For this reason", "Two years later", "As we know,"]
SENTENCES = """
the government signed a treaty with the king
the new law was passed by a large majority
the people of the town built a church
a group of farmers asked the president for help
the young woman moved to the capital of the country
the old bridge was closed for a long time
the company sold the land to the city
the two armies met in the north of the country
the king gave the land to his eldest son
a great fire destroyed most of the town
the school was moved to a new building
the captain of the ship wrote a long letter
the first railway reached the coast of the island
the price of bread rose in the cities
the general refused to leave the small village
a young doctor came to live in the valley
the house was given to the oldest daughter
the Senate voted against the plan of the president
the workers of the mine asked for better pay
the river carried the boats to the sea
the army returned to the city in the spring
a small ship was lost near the coast
the president spoke to the members of the court
the farmers had to sell most of the land
the number of schools in the country doubled
the teacher read the story to the children
the river was crossed by a wooden bridge
a new road was built through the forest
the family left the village for the city
the court decided the case in a week
the soldiers slept on the floor of the church
the name of the town was changed again
the treaty was accepted by both of the countries
a large part of the money was lost
the author of the book lived in the city
the mayor opened the doors of the new library
the island became a part of the republic
the trade with the south grew very quickly
the children of the king were sent away
a school for girls was opened in the town
the winter was the coldest of the century
the team won the final game of the season
the newspaper told the story of the old sailor
the committee wrote a report on the public lands
the queen sent a ship to the new colony
the bank lent the money to the farmers
the voters chose a governor for the new state
the museum bought a picture of the old harbour
""".strip().split("\n")

# next_word and knowledge: in a group of four, each answer is right once and wrong three times
NEXT_WORD = """
The president of the United > States
The members of the House of > Representatives
The money was counted by the Secretary of the > Treasury
The case was heard by the Supreme > Court

She visited them from time to > time
They worked from early morning until late at > night
The boat sailed slowly down the > river
She was born in the north of the > country

The book is full > of
The answer depends > on
The old man was suffering > from
The girl was listening > to

The lake is one of the > largest
It happened at the end of the nineteenth > century
The war lasted for more than four > years
We wish you a happy new > year

Neither the army > nor
Either you must stay > or
Both the father > and
The second river is longer > than

My sister was proud of > herself
My brother was proud of > himself
My parents were proud of > themselves
The engine started by > itself

One, two, > three
Four, five, > six
Seven, eight, > nine
Nine, ten, > eleven

Monday, Tuesday, > Wednesday
Thursday, Friday, > Saturday
January, February, > March
April, May, > June

They looked from left to > right
They worked day and > night
They travelled north and > south
It is more or > less

The farmer rode a > horse
The baby drank some > milk
The king wore a golden > crown
The author wrote a long > book

The ship crossed the > ocean
He knocked at the > door
She climbed the highest > mountain
The sun rose in the > east

Please answer as soon > as
He spent a great deal > of
This was done in accordance > with
They came early in order > to

He has lived here since he was a > child
She opened the window because the room was too > hot
The grass in the field is > green
He was so hungry that he ate the whole > cake

The bird opened its wings and began to > fly
He jumped into the water and began to > swim
She took a pen and began to > write
He went to bed early and began to > sleep

The army was led by a famous > general
The lessons were given by a young > teacher
The sick man was cured by a good > doctor
The fields were worked by a poor > farmer
""".strip()
KNOWLEDGE = """
What is the capital of France? > Paris
What is the capital of Italy? > Rome
What is the capital of England? > London
What is the capital of Egypt? > Cairo

What is the capital of Germany? > Berlin
What is the capital of Spain? > Madrid
What is the capital of Japan? > Tokyo
What is the capital of Russia? > Moscow

Who was the first president of the United States? > George Washington
Who was president during the Civil War? > Abraham Lincoln
Who was the president of the New Deal? > Franklin Roosevelt
Who was the main author of the Declaration of Independence? > Thomas Jefferson

On which continent is Brazil? > South America
On which continent is Nigeria? > Africa
On which continent is China? > Asia
On which continent is Poland? > Europe

What language do most people speak in France? > French
What language do most people speak in Mexico? > Spanish
What language do most people speak in Austria? > German
What language do most people speak in Brazil? > Portuguese

How many days are in a week? > seven
How many months are in a year? > twelve
How many minutes are in an hour? > sixty
How many years are in a century? > one hundred

Which gas do people need to breathe? > oxygen
Which metal is the main part of steel? > iron
What do bees make from flowers? > honey
What is ice made of? > water

Which is the largest planet of the solar system? > Jupiter
Which planet is closest to the Sun? > Mercury
On which planet do people live? > Earth
Which planet is known for its bright rings? > Saturn

Who wrote the play Hamlet? > William Shakespeare
Who painted the Mona Lisa? > Leonardo da Vinci
Who found the law of universal gravitation? > Isaac Newton
Who explained evolution by natural selection? > Charles Darwin

Which animal barks? > the dog
Which animal gives wool? > the sheep
Which animal lays eggs? > the hen
Which animal gives most of the milk that people drink? > the cow

Which river flows through Cairo? > the Nile
Which river flows through London? > the Thames
Which river flows through Paris? > the Seine
Which river flows past New Orleans? > the Mississippi

In which year was the Declaration of Independence adopted? > 1776
In which year did the American Civil War end? > 1865
In which year did the First World War begin? > 1914
In which year did the Second World War end? > 1945
""".strip()

# pronouns: (context, one, many); the verb that follows says which of the two is meant
CONTEXTS = [
    ("The king sent for his sons because", "he", "they"),
    ("The girl waited for her brothers until", "she", "they"),
    ("The farmer stayed with the horses while", "he", "they"),
    ("The teacher stayed with the children until", "she", "they"),
    ("The captain wrote to his men when", "he", "they"),
    ("The mother sang to her daughters while", "she", "they"),
    ("The doctor visited the prisoners because", "he", "they"),
    ("The queen wrote to her cousins when", "she", "they"),
    ("The boy followed the soldiers until", "he", "they"),
    ("The judge spoke to the witnesses while", "he", "they"),
    ("The old woman fed the dogs because", "she", "they"),
    ("The general spoke to the troops when", "he", "they"),
    ("The nurse looked for the soldiers while", "she", "they"),
    ("The son wrote to his parents when", "he", "they"),
    ("The mayor told the farmers that", "the mayor", "the farmers"),
    ("The lawyer told the owners that", "the lawyer", "the owners"),
    ("The president told the senators that", "the president", "the senators"),
    ("The father told the neighbours that", "the father", "the neighbours"),
    ("The writer told the printers that", "the writer", "the printers"),
    ("The sailor told the fishermen that", "the sailor", "the fishermen"),
    ("The bishop told the monks that", "the bishop", "the monks"),
    ("The guide told the travellers that", "the guide", "the travellers"),
    ("The driver told the passengers that", "the driver", "the passengers"),
    ("The manager told the workers that", "the manager", "the workers"),
    ("The aunt told the boys that", "the aunt", "the boys"),
    ("The prince told the knights that", "the prince", "the knights"),
    ("The guard told the visitors that", "the guard", "the visitors"),
    ("The painter told the buyers that", "the painter", "the buyers"),
]
STATES = ["far from the town.", "no longer in danger.", "in the old house.", "ready to leave.", "alone in the forest.",
          "safe at last.", "too tired to walk."]

COLLOCATIONS = """
The laws were passed by the Congress of the United > States
The bill was approved by the Senate and the House of > Representatives
The army of the Union won the Civil > War
The case was sent to the Supreme > Court
The treaty was signed by the Prime > Minister
This power belongs to the Federal > Government
The budget for the next fiscal > year
The message was read in both Houses of > Congress
The interest on the public > debt
The ships passed through the Panama > Canal
The health and the welfare of the American > people
All countries may join the United > Nations
She was queen of the United > Kingdom
The island lies in the Atlantic > Ocean
She was born in New > York
He fought in the First World > War
The team plays in the National Football > League
She received the Nobel > Prize
Some of the workers, as well > as
There was a great deal > of
The farmers were not able > to
He left early in order > to
The work was done in accordance > with
The house was sold because of the lack > of
They went out in spite > of
The whole army took part > in
We all look forward > to
The treaty consists > of
The town is also known > as
The book was written > by
The village is located > in
The rules are based > on
He was the best of them, according > to
The president sent them a letter in addition > to
He was one > of the
The town is part > of the
This was decided at the end > of the
The house stands in the middle > of the
It is one of the largest cities in the > world
He stayed in the village for the rest of his > life
This is a matter of the greatest > importance
The two nations are at peace with each > other
The two kings died at the same > time
She saw the sea for the first > time
It was built in the nineteenth > century
The film is based on a novel of the same > name
The number of people in the town is more > than
The price went up from day to > day
We meet here from time to > time
They went from house to > house
The two men stood side by > side
They learned it step by > step
He read the letter again and > again
It is a question of life and > death
The coins were made of gold and > silver
Thousands of men and > women
The rich and the > poor
On the one hand it is cheap, but on the other > hand
Please answer as soon as > possible
He thanked them from the bottom of his > heart
""".strip().split("\n")

NOUNS = """king river house war letter ship road bank school church army island winter farmer bridge city book horse
door mountain garden queen train money""".split()

TASKS = {  # label: (kind, shots, delimiter, baseline in percent, description)
    "agreement": ("multiple_choice", 0, " ", 50, "Which verb agrees with the subject, past another noun?"),
    "word_order": (
        "multiple_choice", 0, " ", 25, "Which of four orders of the same words is English? (The easiest task.)"
    ),  # fmt: skip
    "next_word": ("multiple_choice", 5, " ", 25, "Which of four words goes on with the sentence? Most are one token."),
    "knowledge": ("multiple_choice", 3, "\nAnswer: ", 25, "Plain facts, which a model must have read to know."),
    "pronouns": ("schema", 0, " ", 50, "Which of two words can the verb that follows belong to?"),
    "collocations": ("language_modeling", 0, " ", 0, "The next word or two of a frequent collocation."),
    "repetition": ("language_modeling", 3, " ", 0, "Go on with two words that alternate: copying from the context."),
}


def agreement() -> list[dict]:
    examples = []
    for p, subjects in enumerate(SUBJECTS):
        for one, many, rest in (PREDICATES[p % 8], PREDICATES[(p + 3) % 8]):
            for gold, subject in enumerate(subjects):
                examples.append({"query": subject, "choices": [f"{one} {rest}", f"{many} {rest}"], "gold": gold})
    return examples


def word_order() -> list[dict]:
    examples = []
    for i, sentence in enumerate(SENTENCES):
        words = sentence.split()
        places = [j for j in range(len(words) - 1, -1, -1) if words[j] in FUNCTION_WORDS][:3]  # the last three
        orders = [words] + [words[:j] + [words[j + 1], words[j]] + words[j + 2 :] for j in places]
        choices = [" ".join(order) + "." for order in orders]
        examples.append({"query": OPENINGS[i % len(OPENINGS)], "choices": choices, "gold": 0})
    return examples


def groups(text: str) -> list[dict]:
    examples = []
    for group in text.split("\n\n"):
        pairs = [line.split(" > ") for line in group.split("\n")]
        for gold, (query, _) in enumerate(pairs):
            examples.append({"query": query, "choices": [answer for _, answer in pairs], "gold": gold})
    return examples


def pronouns() -> list[dict]:
    examples = []
    for i, (context, one, many) in enumerate(CONTEXTS):
        for gold, verb in enumerate(("was", "were")):
            options = [f"{context} {one}", f"{context} {many}"]
            continuation = f"{verb} {STATES[i % len(STATES)]}"
            examples.append({"context_options": options, "continuation": continuation, "gold": gold})
    return examples


def collocations() -> list[dict]:
    return [dict(zip(("context", "continuation"), line.split(" > "))) for line in COLLOCATIONS]


def repetition() -> list[dict]:
    rng = random.Random(7)
    pairs = [(a, b) for a in NOUNS for b in NOUNS if a != b]
    return [{"context": f"{a} {b} {a} {b} {a}", "continuation": b} for a, b in rng.sample(pairs, 48)]


def mix(examples: list[dict], seed: int) -> list[dict]:
    """Shuffle the examples, and the options within each so that every position is right equally often."""
    rng = random.Random(seed)
    field = next((f for f in ("choices", "context_options") if f in examples[0]), None)
    if field:
        k = len(examples[0][field])
        positions = [i % k for i in range(len(examples))]
        rng.shuffle(positions)
        for example, gold in zip(examples, positions):
            options = example[field]
            right = options.pop(example["gold"])
            rng.shuffle(options)
            options.insert(gold, right)
            example["gold"] = gold
    rng.shuffle(examples)
    return examples


def make(folder) -> None:
    """Write the whole bundle into `folder`."""
    folder = Path(folder)
    data = {
        "agreement": agreement(), "word_order": word_order(), "next_word": groups(NEXT_WORD),
        "knowledge": groups(KNOWLEDGE), "pronouns": pronouns(), "collocations": collocations(),
        "repetition": repetition(),
    }  # fmt: skip
    written = "a small bundle written for this course by tools/make_core_bundle.py, in the layout of CORE's bundle."
    config = [
        f"# mini-CORE: {written}",
        "# Its score is not CORE and cannot be compared with it. Licence: that of the repository.",
        "name: mini-CORE",
        "baselines: uniform guesser",
        "icl_tasks:",
    ]
    rows = ["Eval Task,Task Category,Task Type,#shots,#datapoints,Random baseline,Centered Metric?,Description"]
    for seed, (label, (kind, shots, delimiter, baseline, description)) in enumerate(TASKS.items()):
        examples = mix(data[label], seed)
        with atomic_file(folder / "eval_data" / f"{label}.jsonl") as f:
            f.writelines(json.dumps(example) + "\n" for example in examples)
        config += ["-", f"  label: {label}", f"  dataset_uri: {label}.jsonl", f"  num_fewshot: [{shots}]",
                   f"  icl_task_type: {kind}"]
        config += [f"  continuation_delimiter: {json.dumps(delimiter)}"] * (delimiter != " ")
        rows.append(f'{label},mini-CORE,{kind.replace("_", " ")},{shots},{len(examples)},{baseline},,"{description}"')
    for name, lines in (("core.yaml", config), ("eval_meta_data.csv", rows)):
        with atomic_file(folder / name) as f:
            f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    make(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "gpt2course" / "core_bundle")
