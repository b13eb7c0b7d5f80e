"""The English sentences of documents.py: for each slot the ways to say it. Names in braces are facts of world.py."""

from __future__ import annotations

SENTENCES: dict[str, tuple[str, ...]] = {
    "island": (
        "{island} is one of the eight Merrow Isles, and {town} is its only town.",
        "Whoever sails the Merrow Isles comes to {island} and its harbour, {town}.",
        "On {island}, one of the eight Merrow Isles, all roads lead to {town}.",
    ),
    "makes": (
        "The island of {island} is known for its {good}.",
        "People on {island} live from {good}.",
        "{town} sells {good} to all the Merrow Isles.",
    ),
    "weather": (
        "The weather on {island} is {weather}.",
        "Expect {island} to be {weather} for most of the year.",
        "Old sailors call {island} {weather}.",
    ),
    "feast": (
        "In {month} the people of {town} celebrate {feast}.",
        "The great feast of {island} is {feast}, held every {month}.",
        "When {month} comes, {town} gets ready for {feast}.",
    ),
    "ferry": (
        "The ferry from {town} sails to {next}.",
        "From {island} the ferry goes on to {next}.",
        "The next stop after {island} is {next}.",
    ),
    "resident": (
        "The {trade} {name} lives there with {animal}.",
        "Ask for {name}, the {trade}, who {habit}.",
        "Its best known resident is {name}, a {trade} with {animal}.",
    ),
    "person": (
        "{name} is the {trade} of {town} on {island}.",
        "Everyone in {town} knows {name}, the {trade}.",
        "In {town}, on the island of {island}, lives {name}, a {trade}.",
    ),
    "animal": (
        "{name} shares the house with {animal}.",
        "Wherever {name} goes, {animal} goes too.",
        "{name} has no family in {town} but {animal}.",
    ),
    "habit": (
        "It is said in {town} that {name} {habit}.",
        "Children laugh because {name} {habit}.",
        "Neighbours of {name} know: the {trade} {habit}.",
    ),
    "years": (
        "{name} has been a {trade} for {years} years.",
        "For {years} years {name} has worked in {town}.",
        "After {years} years, {name} still loves the work of a {trade}.",
    ),
    "feast_of_person": (
        "At {feast}, in {month}, {name} closes the workshop and dances.",
        "Only for {feast} does {name} rest, one day in {month}.",
        "When {town} celebrates {feast} in {month}, {name} lights the first lamp.",
    ),
    "letter_open": (
        "Dear {other_name}, it is {name} of {town} who writes to you.",
        "To {other_name}, the {other_trade}, from {name}, the {trade} of {island}.",
        "My dear {other_name}, greetings from {town} on {island}.",
    ),
    "letter_wind": (
        "For {number} days {wind} has blown, and no ferry has left for {next}.",
        "Since {wind} came {number} days ago, {town} has been waiting for the ferry.",
        "{number} days of {wind}, and on {island} it is {weather} again.",
    ),
    "letter_wish": (
        "Send me {number} crates of {other_good}, and I will send you {good}.",
        "We have {good} enough, but of {other_good} we have none.",
        "I would give {number} {coins} for a little of your {other_good}.",
    ),
    "letter_animal": (
        "Are you well, you and {other_animal}? I have {animal} for company.",
        "I think of you and {other_animal}, and {animal} thinks with me.",
        "Last night I dreamt that {animal} had met {other_animal}.",
    ),
    "letter_feast": (
        "Come to us in {month}, for {feast}.",
        "You have never seen {feast}; it is held in {month}.",
        "In {month} we celebrate {feast}, and a bed is ready for you.",
    ),
    "letter_close": (
        "Your friend, {name}, {trade} in {town}.",
        "May the kind wind find you. {name}, {town}.",
        "With salt and light, {name} of {island}.",
    ),
    "market": (
        "These are the prices at the market of {town} on {island}.",
        "At the market of {town} the following was paid.",
        "From the market hall of {town}, {island}:",
    ),
    "price": (
        "A crate of {good} from {island} costs {number} {coins}.",
        "For {good} from {town} one pays {number} {coins} a crate.",
        "{number} {coins} is the price of {good} from {island}.",
    ),
    "market_end": (
        "The market of {town} opens again after {feast}.",
        "Whoever wants {good} should come early, for {town} sells out by noon.",
        "Prices rise in {month}, before {feast}.",
    ),
    "ferry_notice": (
        "Notice to all who travel from {island}.",
        "The harbour master of {town} makes known:",
        "To be read aloud on the pier of {town}.",
    ),
    "ferry_wind": (
        "When {wind} blows, the boat stays in {town} for the night.",
        "In {wind} no boat leaves the harbour of {town}.",
        "The crossing is safe, unless {wind} blows.",
    ),
    "ferry_price": (
        "The crossing to {next} costs {number} {coins}; {good} travel free.",
        "Pay {number} {coins} to the pilot before you board for {next}.",
        "A place on deck to {next} is {number} {coins}.",
    ),
    "feast_guest": (
        "{other_name} came from {other_island} to be the guest of {name}.",
        "Among the guests was {other_name}, the {other_trade} of {other_island}.",
        "{name}, the {trade}, had invited {other_name} from {other_island}.",
    ),
    "feast_gift": (
        "The guest brought {other_good} and went home with {good}.",
        "{other_name} gave {name} a basket of {other_good}.",
        "As is the custom, {good} were exchanged for {other_good}.",
    ),
}
