"""Kinds of records that JSON is extracted from: the names of their fields, the kinds of their values, and sentences
that tell them all. Training never has those at the end."""

from __future__ import annotations

Record = tuple[dict[str, str], tuple[str, ...]]
"""Field -> kind of value (as `values.py` knows them), and sentences to be filled with the values."""


def _record(fields: str, sentences: str) -> Record:
    return dict(field.split("=") for field in fields.split(", ")), tuple(sentences.split("|"))


TRAINED = (
    _record("name=full name, age=age, city=place",
            "{name} is {age} years old and lives in {city}.|In {city} lives {name}, who is {age}."),
    _record("product=noun, price=count, color=color",
            "The {color} {product} costs {price} dollars.|We sell a {color} {product} for {price} dollars."),
    _record("event=noun, day=day, place=place",
            "The {event} is on {day} in {place}.|Come to the {event} in {place} on {day}."),
    _record("customer=name, item=noun, quantity=count",
            "{customer} ordered {quantity} pieces of the {item}.|Order by {customer}: {quantity} x {item}."),
    _record("origin=place, destination=place, time=time",
            "The train from {origin} to {destination} leaves at {time}.|"
            "At {time} a bus goes from {origin} to {destination}."),
    _record("title=title, author=full name, year=year",
            "{title} was written by {author} in {year}.|In {year}, {author} wrote {title}."),
    _record("driver=name, color=color, speed=count",
            "{driver} drives a {color} car at {speed} km per hour.|"
            "The {color} car of {driver} does {speed} km per hour."),
    _record("guest=name, nights=age, hotel=place",
            "{guest} stays {nights} nights at the {hotel}.|The {hotel} has {guest} as a guest for {nights} nights."),
    _record("sender=name, receiver=name, gift=noun",
            "{sender} sent a {gift} to {receiver}.|{receiver} got a {gift} from {sender}."),
    _record("team=place, points=count, rank=age",
            "{team} is number {rank} with {points} points.|With {points} points, {team} is number {rank}."),
    _record("buyer=name, seller=name, price=count",
            "{buyer} bought it from {seller} for {price} dollars.|{seller} sold it to {buyer} for {price} dollars."),
    _record("animal=noun, weight=count, keeper=full name",
            "The {animal} weighs {weight} kilograms and is looked after by {keeper}.|"
            "{keeper} looks after a {animal} of {weight} kilograms."),
    _record("teacher=full name, class=age, day=day",
            "{teacher} teaches class {class} on {day}.|On {day} class {class} has {teacher}."),
    _record("material=noun, tool=noun, maker=name",
            "{maker} makes it of {material} with a {tool}.|With a {tool} and some {material}, {maker} made it."),
    _record("baby=name, mother=full name, year=year",
            "{mother} had her baby {baby} in {year}.|In {year} {baby} was born to {mother}."),
    _record("shop=noun, street=place, opens=time",
            "The {shop} in {street} Street opens at {opens}.|In {street} Street there is a {shop}, open from {opens}."),
    _record("patient=full name, doctor=full name, day=day",
            "{patient} sees doctor {doctor} on {day}.|On {day} {doctor} will see {patient}."),
    _record("pilot=name, flight=count, gate=age",
            "Flight {flight} with {pilot} leaves from gate {gate}.|{pilot} flies number {flight} from gate {gate}."),
    _record("singer=full name, song=title, album=title",
            "{singer} sings {song} on {album}.|On {album}, {song} is sung by {singer}."),
    _record("chef=name, dish=noun, minutes=age",
            "{chef} cooks the {dish} in {minutes} minutes.|The {dish} takes {chef} {minutes} minutes."),
    _record("farmer=name, crop=noun, field=place",
            "{farmer} grows {crop} at {field}.|At {field}, {crop} is grown by {farmer}."),
    _record("winner=full name, prize=noun, contest=noun",
            "{winner} won the {prize} in the {contest}.|The {prize} of the {contest} went to {winner}."),
    _record("thief=name, loot=noun, place=place",
            "In {place}, {thief} stole a {loot}.|The {loot} was taken by {thief} in {place}."),
    _record("visitor=full name, museum=place, ticket=count",
            "{visitor} entered the {museum} museum with ticket {ticket}.|"
            "Ticket {ticket} let {visitor} into the {museum} museum."),
    _record("lender=name, borrower=name, thing=noun",
            "{lender} lent the {thing} to {borrower}.|{borrower} has the {thing} of {lender}."),
    _record("captain=full name, ship=noun, harbor=place",
            "The ship {ship} under {captain} lies in {harbor}.|{captain} sails the {ship} from {harbor}."),
    _record("container=noun, content=noun, shelf=age",
            "The {container} on shelf {shelf} holds a {content}.|"
            "A {content} lies in the {container} on shelf {shelf}."),
    _record("tenant=full name, floor=age, rent=count",
            "{tenant} pays {rent} dollars for floor {floor}.|Floor {floor} is let to {tenant} for {rent} dollars."),
    _record("player=name, goals=age, club=place",
            "{player} shot {goals} goals for {club}.|For {club}, {player} made {goals} goals."),
    _record("actor=full name, role=noun, film=title",
            "{actor} plays the {role} in {film}.|In {film} the {role} is played by {actor}."),
    _record("garden=place, flower=noun, color=color",
            "The {flower} in the garden of {garden} is {color}.|{garden} has a garden with a {color} {flower}."),
    _record("worker=name, machine=noun, hours=age",
            "{worker} ran the {machine} for {hours} hours.|The {machine} was run by {worker} for {hours} hours."),
    _record("king=full name, country=place, year=year",
            "{king} became king of {country} in {year}.|In {year}, {country} had {king} as its king."),
    _record("box=noun, lid=color, key=noun",
            "The {box} has a {lid} lid and opens with a {key}.|With the {key} you open the {box} with the {lid} lid."),
    _record("river=place, bridge=place, length=count",
            "The {bridge} bridge over the {river} is {length} meters long.|"
            "Over the {river} goes the {bridge} bridge, {length} meters long."),
    _record("dog=name, trick=noun, trainer=full name",
            "{trainer} taught {dog} the {trick}.|{dog} learned the {trick} from {trainer}."),
    _record("clerk=name, office=age, task=noun",
            "{clerk} in office {office} does the {task}.|The {task} is done by {clerk} in office {office}."),
    _record("writer=name, reader=name, topic=noun",
            "{writer} wrote to {reader} about the {topic}.|About the {topic}, {reader} got a letter from {writer}."),
    _record("village=place, people=count, mayor=full name",
            "{mayor} is mayor of {village}, where {people} people live.|"
            "{village} has {people} people and {mayor} as mayor."),
    _record("runner=name, race=noun, minutes=age",
            "{runner} ran the {race} in {minutes} minutes.|It took {runner} {minutes} minutes to run the {race}."),
)  # fmt: skip
UNSEEN = (
    _record("name=full name, hobby=noun, city=place", "{name} lives in {city} and enjoys {hobby}."),
    _record("item=noun, room=noun, owner=name", "The {item} in the {room} belongs to {owner}."),
    _record("student=name, score=count, subject=noun", "{student} got {score} points in {subject}."),
)  # fmt: skip
