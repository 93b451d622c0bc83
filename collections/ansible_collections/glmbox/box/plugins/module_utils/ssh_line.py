"""What consoles of rental companies print as the way to a box, read without ever being run."""

from __future__ import annotations

import ipaddress
import re
import shlex
import unicodedata
from dataclasses import dataclass, field

# OpenSSH's options, by ssh(1): those that take a value, and those that do not.
WITH_VALUE = "BbcDEeFIiJLlmOoPpQRSWw"
FLAGS = "46AaCfGgKkMNnqsTtVvXxYy"
TUNNELS = "DLRWw"
# Settings that run a program here, or read one from a file: never taken, and not silently left out either.
RUNNING = (
    "proxycommand", "localcommand", "permitlocalcommand", "knownhostscommand", "match", "include", "pkcs11provider",
    "securitykeyprovider", "proxyusefdpass", "xauthlocation",
)  # fmt: skip
# What a shell would act on; none of it belongs to an address.
SHELL = "`$;&|<>(){}\\!*?#~"
PROMPTS = ("$", "#", "%", ">")
USER = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
DEFAULT_PORT, DEFAULT_USER = 22, "root"


class SshLineError(Exception):
    """The line does not tell the way to a box, in a sentence with the next step."""


@dataclass(frozen=True)
class Hop:
    """One login on the way: a host (name or address, without brackets), its port, and the user."""

    host: str
    port: int = DEFAULT_PORT
    user: str = DEFAULT_USER

    def __str__(self) -> str:
        return f"{self.user}@{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class Login(Hop):
    """The way to a box. key: of the controller, or nothing. jumps: logins before it, in their order.

    notes: a sentence for each part of the line that was left out.
    """

    key: str = ""
    jumps: tuple[Hop, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def format_login(login: Login) -> str:
    """Return the ssh command that parse reads as the same login."""
    words = ["ssh", "-p", str(login.port)]
    if login.key:
        words += ["-i", login.key]
    if login.jumps:
        words += ["-J", ",".join(map(str, login.jumps))]
    return shlex.join([*words, f"{login.user}@{login.host}"])


def parse(line: str) -> Login:
    """Return the login that a line describes: an ssh command, ssh://…, [user@]host[:port], or host and port.

    Raises SshLineError. Nothing in the line is run, and what ssh would run on this machine is refused.
    """
    words = words_of(line)
    if words[0] in PROMPTS and len(words) > 1:  # a prompt that was copied too
        words = words[1:]
    program = words[0].rsplit("/", 1)[-1].lower().removesuffix(".exe")
    if program == "sshpass":
        raise SshLineError(
            "The line holds a password for sshpass. Give the part from ssh on; the password is asked for."
        )
    if program in ("scp", "sftp", "rsync", "mosh", "ssh-copy-id", "curl", "wget", "telnet"):
        raise SshLineError(f"The line begins with {program}. Give the one that begins with ssh.")
    if program == "ssh":
        return of_command(words[1:])
    if len(words) == 2 and re.fullmatch(r"[0-9]+", words[1]):
        hop, port, _ = of_destination(words[0])
        if port:
            raise SshLineError("The line names two ports. Give the one of the box's SSH.")
        return Login(hop.host, port_of(words[1]), hop.user)
    if len(words) > 1 and not words[0].startswith("-") and not words[1].startswith("-"):
        raise SshLineError("The line is no address and does not begin with ssh. Copy it from the console again.")
    return of_command(words)


def words_of(line: str) -> list[str]:
    """Return the words of a line, once it holds nothing that a shell would act on, and nothing that cannot be seen."""
    # What chat programs and Chinese keyboards make of a space and a colon.
    line = line.strip().replace("\u00a0", " ").replace("\u3000", " ").replace("：", ":")
    for character in line:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            raise SshLineError(
                f"The SSH line holds a character that cannot be seen (U+{ord(character):04X}). Copy one line."
            )
    try:
        words = [word for word in shlex.split(line) if word]
    except ValueError as error:
        raise SshLineError("A quote in the SSH line is opened and not closed. Copy the whole line.") from error
    if not words:
        raise SshLineError("There is no SSH line. Give what the console shows, as -e 'ssh=\"ssh -p 16116 root@HOST\"'.")
    for character in "".join(words[1:] if words[0] in PROMPTS else words):
        # ~ begins a key's path.
        if character in SHELL.replace("~", ""):
            raise SshLineError(
                f"The SSH line holds {character}, which a shell would act on. Give the plain ssh command."
            )
    return words


def of_command(words: list[str]) -> Login:
    """Return the login of an ssh command's arguments."""
    found: dict[str, str] = {}
    jumps: tuple[Hop, ...] = ()
    notes: list[str] = []
    destination = ""
    rest = list(words)
    ended = False
    while rest:
        word = rest.pop(0)
        if word == "--" and not destination and not ended:
            ended = True
            continue
        if ended or not word.startswith("-") or word == "-":
            if destination:
                notes.append("The command after the host is left out.")
                break
            destination = word
            continue
        for letter, value in options_of(word, rest):
            if letter == "o":
                letter, value = setting_of(value)
            if letter == "J":
                jumps = of_jumps(value)
            elif letter in ("p", "l", "i", "HostName"):
                take(found, letter, value)
            elif letter in TUNNELS:
                notes.append(f"The tunnel -{letter} {value} is left out: glmbox opens its port by itself.")
            elif value:
                named = f"-o {value}" if letter == "o" else f"-{letter} {value}"
                notes.append(f"{named} is left out: glmbox has its own settings for SSH.")
    if not destination:
        raise SshLineError("The SSH line names no host. It should look like: ssh -p 16116 root@HOST")
    hop, port, user = of_destination(destination)
    if user:
        take(found, "l", user)
    if port:
        take(found, "p", port)
    key = found.get("i", "")
    if key.startswith("-"):
        raise SshLineError(f"The key {key} begins with a dash. Give its path.")
    return Login(
        host_of(found["HostName"]) if "HostName" in found else hop.host,
        port_of(found.get("p", str(DEFAULT_PORT))),
        user_of(found.get("l", DEFAULT_USER)),
        key,
        jumps,
        tuple(notes),
    )


def options_of(word: str, rest: list[str]) -> list[tuple[str, str]]:
    """Return the options of one word, such as -CNg or -p22, as letters and values; a value may be taken from rest."""
    if word.startswith("--"):
        raise SshLineError(f"ssh has no option {word}. Copy the line from the console again.")
    found = []
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in WITH_VALUE:
            if not letters and not rest:
                raise SshLineError(f"The SSH line ends after -{letter}, which needs a value. Copy the whole line.")
            value = letters or rest.pop(0)
            found.append((letter, value))
            break
        if letter not in FLAGS:
            raise SshLineError(f"ssh has no option -{letter}. Copy the line from the console again.")
        found.append((letter, ""))
    return found


def setting_of(text: str) -> tuple[str, str]:
    """Return what -o sets, as the option that does the same and its value; ("o", text) for what is left out."""
    name, _, value = re.sub(r"\s*=\s*|\s+", "=", text.strip(), count=1).partition("=")
    if name.lower() in RUNNING:
        raise SshLineError(f"The SSH line sets {name}, which runs a program on this machine. A jump host goes with -J.")
    short = {"port": "p", "user": "l", "identityfile": "i", "proxyjump": "J", "hostname": "HostName"}.get(name.lower())
    if not short:
        return "o", text
    if not value:
        raise SshLineError(f"-o {name} has no value. Copy the whole line.")
    return short, value.strip().strip("\"'")


def take(found: dict[str, str], letter: str, value: str) -> None:
    """Note a value, and refuse a second one that differs."""
    what = {"p": "ports", "l": "users", "i": "keys", "HostName": "hosts"}[letter]
    if found.setdefault(letter, value) != value:
        raise SshLineError(f"The SSH line names two {what}. Give the one that opens the box.")


def of_jumps(text: str) -> tuple[Hop, ...]:
    if text.lower() == "none":
        return ()
    hops = []
    for part in text.split(","):
        hop, port, user = of_destination(part)
        hops.append(Hop(hop.host, port_of(port or str(DEFAULT_PORT)), user_of(user or DEFAULT_USER)))
    return tuple(hops)


def of_destination(text: str) -> tuple[Hop, str, str]:
    """Return the login of [user@]host[:port] or ssh://…, and its port and user as written, or nothing for them."""
    if "://" in text:
        scheme, _, text = text.partition("://")
        if scheme.lower() != "ssh":
            raise SshLineError(f"{scheme}:// is no address of SSH. Give the line that begins with ssh.")
        text = text.rstrip("/")
    user, _, address = text.rpartition("@")
    if ":" in user:
        raise SshLineError("The line holds a password before the @. Leave it out; the password is asked for.")
    host, port = split_port(address)
    login = Hop(host_of(host), port_of(port or str(DEFAULT_PORT)), user_of(user) if "@" in text else DEFAULT_USER)
    return login, port, user


def split_port(address: str) -> tuple[str, str]:
    """Return host and port ("" for none) of an address, whose IPv6 may stand in brackets."""
    if address.startswith("["):
        host, closed, after = address[1:].partition("]")
        if not closed or (after and not after.startswith(":")):
            raise SshLineError("A bracket in the address is opened and not closed. Copy the whole line.")
        if after == ":":
            raise SshLineError("The address ends in a colon without a port. Copy the whole line.")
        return host, after[1:]
    if address.count(":") == 1:
        host, _, port = address.partition(":")
        if not port:
            raise SshLineError("The address ends in a colon without a port. Copy the whole line.")
        return host, port
    return address, ""


def host_of(text: str) -> str:
    """Return a host's name or address, in one form for each; refuse what is neither."""
    host = text.removesuffix(".")
    if ":" in host:
        try:
            if "%" in host:
                raise ValueError
            return str(ipaddress.IPv6Address(host))
        except ValueError as error:
            raise SshLineError(f"{text!r} is no IPv6 address. Copy the host from the console again.") from error
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise SshLineError(f"{text!r} is no IPv4 address. Copy the host from the console again.") from error
    if len(host) > 253 or not re.fullmatch(rf"{LABEL}(?:\.{LABEL})*", host):
        raise SshLineError(f"{text!r} is no name of a host. Copy the line from the console again.")
    if any(len(label) > 63 for label in host.split(".")):
        raise SshLineError(f"{text!r} has a part of more than 63 characters. Copy the line from the console again.")
    return host


def port_of(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise SshLineError(f"{text!r} is no port: these are numbers from 1 to 65535.")
    return int(text)


def user_of(text: str) -> str:
    if len(text) > 128 or not re.fullmatch(USER, text):
        raise SshLineError(f"{text!r} is no name of a user. Copy the line from the console again.")
    return text
