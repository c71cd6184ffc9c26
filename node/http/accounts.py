"""Accounts and sessions over HTTP: sign-up, sign-in, tokens, one's own profile, the directory."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from os import urandom
from typing import Annotated, Final

import msgspec
from blake3 import blake3
from quart import Response, g, request

from cluster.commands import Refused
from cluster.replicas import now_ms
from node.feeds.rendering import Renderer
from node.http.admission import Admission, answer_headers, is_suspended, signed, tell, viewer
from node.http.bodies import STRANGERS_BYTES_MAX, read_json
from node.http.openapi import Routes, empty, render
from node.http.pages import PageQuery, Users, asked, opened, sealed
from node.http.problems import Body, Problem
from node.http.tokens import Signer, TokenError
from node.parts import Parts, now_s
from node.passwords import PASSWORD_MAX, PASSWORD_MIN
from node.service import EVERYBODY, Retry
from node.social import accounts, deletion, listings, people, sessions, texts
from node.social.people import UserView
from node.social.texts import folded
from storage.ids import IdError, parse_id, partition_of
from storage.rows import Reader

NOBODYS_MEDIA: Final = 1  # stands for an id of 0, which to the state machine means no avatar
NEVER_MS: Final = -1  # when no password was set
SECRET_BYTES: Final = 32
REFRESH_BYTES: Final = 16 + SECRET_BYTES  # user id, session id, secret
NEWCOMERS: Final = 1 << 23  # under which number, of each partition, sign-ups are remembered; nobody's id
REFRESH: Final = "refresh"  # the purpose of the signature behind them


class NewUser(Body, frozen=True):
    username: str
    password: str
    display_name: str = ""


class SignIn(Body, frozen=True):
    username: str
    password: str


class Refresh(Body, frozen=True):
    refresh_token: str


class Profile(Body, frozen=True):
    # Held to their lengths here, too: the journal holds also what the state machine refuses.
    display_name: Annotated[str, msgspec.Meta(max_length=texts.DISPLAY_NAME_MAX)] | None = None
    bio: Annotated[str, msgspec.Meta(max_length=texts.BIO_MAX)] | None = None
    avatar_media_id: str | msgspec.UnsetType | None = msgspec.UNSET  # null takes the avatar away
    private: bool | None = None


class NewPassword(Body, frozen=True):
    current: str
    new: str


class Goodbye(Body, frozen=True):
    password: str


class Tokens(msgspec.Struct, frozen=True):
    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int  # seconds


class SignedIn(msgspec.Struct, frozen=True):
    user: UserView
    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int  # seconds


class RefreshToken(msgspec.Struct, frozen=True):
    """What a refresh token says: whose session, and the secret whose hash its row keeps."""

    user: int
    session: int
    secret: bytes

    @property
    def hash(self) -> bytes:
        return blake3(self.secret).digest()

    def text(self, signer: Signer) -> str:
        """Signed, so that nobody can end a session by inventing a token for it."""
        data = self.user.to_bytes(8, "big") + self.session.to_bytes(8, "big") + self.secret
        written = urlsafe_b64encode(data).decode()
        return f"{written}.{signer.sign(REFRESH, (written,), 0)}"

    @classmethod
    def parse(cls, token: str, signer: Signer) -> "RefreshToken":
        """Raises Problem unauthenticated."""
        written, _, signature = token.partition(".")
        try:
            data = urlsafe_b64decode(written.encode())
            signer.verify(REFRESH, (written,), 0, signature, -1)
        except (NotBase64, ValueError, TokenError):
            data = b""
        if len(data) != REFRESH_BYTES:
            raise Problem("unauthenticated", "this is not a refresh token of this network")
        return cls(int.from_bytes(data[:8], "big"), int.from_bytes(data[8:16], "big"), data[16:])


class Sessions:
    """What the API and the web app share: accounts made, passwords checked, sessions opened and ended, tokens
    issued."""

    def __init__(self, parts: Parts, renderer: Renderer) -> None:
        self._parts = parts
        self._renderer = renderer

    def expires_ms(self) -> int:
        return now_ms() + int(self._parts.settings.accounts.refresh_token_s * 1000)

    async def welcome(self, wanted: NewUser) -> str:
        """The hash of a newcomer's password, after what can be refused was. Raises Problem."""
        check_password(wanted.password)
        check_texts(wanted)
        verdict = self._parts.limits.take("sign_up", [g.address], now_s())
        answer_headers().update(verdict.headers())
        return await self._parts.passwords.hash(wanted.password)

    async def sign_up(self, wanted: NewUser, password_hash: str, retry: Retry | None) -> RefreshToken:
        # A retried sign-up must give tokens that work: the secret is drawn from the key, not at random.
        secret = retry.step("secret") + retry.step("secret 2") if retry else urandom(SECRET_BYTES)
        command = accounts.SignUp(
            wanted.username, wanted.display_name, password_hash, blake3(secret).digest(), self.expires_ms()
        )
        home = self._parts.partition_of_name(wanted.username)
        done = await self._parts.service.do(home, command, accounts.SignedUp, by=NEWCOMERS, retry=retry)
        tell(done)
        return RefreshToken(done.result.user, done.result.session, secret)

    async def sign_in(self, wanted: SignIn) -> RefreshToken:
        """Raises Problem rate_limited, wrong_credentials, suspended."""
        name = folded(wanted.username)[:64]
        self.count_sign_in(f"name:{name}")
        # Who signed up a moment ago, or has another password since, did so at another node, maybe.
        await self._parts.service.caught_up(None, (self._parts.partition_of_name(wanted.username),))
        with self._parts.service.read() as rows:
            user = named(self._parts, rows, wanted.username)
        return await self.open(user or 0, wanted.password)

    async def end(self) -> None:
        """End the session of whoever asks."""
        who = signed()
        command = sessions.EndSession(who.user, who.session)
        tell(await self._parts.service.do(partition_of(who.user), command, grows=False))

    def count_sign_in(self, whose: str) -> None:
        """Raises Problem rate_limited."""
        limits = self._parts.limits
        wide = [whose, f"{g.address}:sign_in"]
        limits.look("sign_in_wide", wide, now_s())
        verdict = limits.take("sign_in", [f"{whose}@{g.address}"], now_s())
        limits.take("sign_in_wide", wide, now_s())
        answer_headers().update(verdict.headers())

    async def check(self, user: int, password: str) -> int:
        """The `changed_ms` of the credential that the password fits. Raises Problem wrong_credentials."""
        with self._parts.service.read() as rows:
            credential = people.credential(rows, user) if user else None
        encoded = credential.password_hash if credential else None
        if not await self._parts.passwords.matches(encoded, password[: PASSWORD_MAX + 1]) or not credential:
            raise Problem("wrong_credentials")
        return credential.changed_ms

    async def open(self, user: int, password: str) -> RefreshToken:
        changed_ms = await self.check(user, password)
        secret = urandom(SECRET_BYTES)
        with self._parts.service.read() as rows:
            if is_suspended(rows, user):
                raise Problem("suspended")
        command = sessions.OpenSession(user, changed_ms, blake3(secret).digest(), self.expires_ms())
        # Not what grows: whoever must make room has to sign in first, and a user's sessions are bounded.
        done = await self._parts.service.do(partition_of(user), command, sessions.Opened, grows=False)
        tell(done)
        return RefreshToken(user, done.result.session, secret)

    async def refresh(self, token: RefreshToken, reuse_s: float | None = None) -> RefreshToken:
        """The token before works once more for `reuse_s` (None: as the settings say). Raises Problem
        unauthenticated, suspended."""
        if reuse_s is None:
            reuse_s = self._parts.settings.accounts.refresh_reuse_s
        with self._parts.service.read() as rows:
            if is_suspended(rows, token.user):
                raise Problem("suspended")
        secret = urandom(SECRET_BYTES)
        command = sessions.RefreshSession(
            token.user, token.session, token.hash, blake3(secret).digest(), self.expires_ms(),
            int(reuse_s * 1000),
        )  # fmt: skip
        done = await self._parts.service.do(
            partition_of(token.user), command, sessions.Refreshed, grows=False
        )
        tell(done)
        if done.result.revoked:
            raise Problem("unauthenticated", "this refresh token was used before: sign in again")
        return RefreshToken(token.user, token.session, secret)

    def tokens(self, token: RefreshToken) -> Tokens:
        access = self._parts.keyring.issue(token.user, token.session, now_s())
        expires_in = int(self._parts.settings.accounts.access_token_s)
        return Tokens(access, token.text(self._parts.signer), "Bearer", expires_in)

    async def signed_in(self, token: RefreshToken) -> SignedIn:
        await self._parts.service.visible(partition_of(token.user))
        with self._parts.service.read() as rows:
            user = people.user_view(rows, token.user, token.user, self._renderer.avatar_url)
        tokens = self.tokens(token)
        return SignedIn(user, tokens.access_token, tokens.refresh_token, tokens.token_type, tokens.expires_in)


def make_routes(parts: Parts, admission: Admission, renderer: Renderer) -> Routes:
    routes = Routes("accounts")
    service = parts.service
    session_of = Sessions(parts, renderer)

    @routes.add(
        "POST", "/v1/users", "Sign up", body=NewUser, answers={201: SignedIn}, signed_in=False,
        asks_who=False, limit="sign_up", problems=("username_taken", "invalid_field", "invalid_password"),
        idempotent_by_key=True,
    )  # fmt: skip
    async def sign_up() -> Response:
        wanted = await read_json(request, NewUser, STRANGERS_BYTES_MAX)
        password_hash = await session_of.welcome(wanted)
        async with admission.once(folded(wanted.username), msgspec.json.encode(wanted)) as retry:
            token = await session_of.sign_up(wanted, password_hash, retry)
        return render(await session_of.signed_in(token), 201)

    @routes.add(
        "POST", "/v1/sessions", "Sign in", body=SignIn, answers={201: SignedIn}, signed_in=False,
        asks_who=False, limit="sign_in", problems=("wrong_credentials", "suspended"),
    )  # fmt: skip
    async def sign_in() -> Response:
        token = await session_of.sign_in(await read_json(request, SignIn, STRANGERS_BYTES_MAX))
        return render(await session_of.signed_in(token), 201)

    @routes.add(
        "POST", "/v1/sessions/refresh", "A new pair of tokens for the old", body=Refresh,
        answers={200: Tokens}, signed_in=False, asks_who=False, problems=("unauthenticated", "suspended"),
    )  # fmt: skip
    async def refresh_session() -> Response:
        wanted = await read_json(request, Refresh, STRANGERS_BYTES_MAX)
        token = await session_of.refresh(RefreshToken.parse(wanted.refresh_token, parts.signer))
        return render(session_of.tokens(token))

    @routes.add("DELETE", "/v1/sessions", "Sign out: this session ends", answers={204: None})
    async def end_session() -> Response:
        await session_of.end()
        return empty()

    @routes.add("GET", "/v1/users/me", "One's own account", answers={200: UserView})
    async def me() -> Response:
        return render(await own())

    @routes.add(
        "PATCH", "/v1/users/me", "Change one's profile", body=Profile, answers={200: UserView},
        problems=("invalid_field", "conflict"),
    )  # fmt: skip
    async def change_profile() -> Response:
        wanted = await read_json(request, Profile)
        who = signed()
        command = accounts.UpdateProfile(
            who.user, wanted.display_name, wanted.bio, avatar_of(wanted), wanted.private
        )
        home = partition_of(who.user)
        # Whoever makes an account private may rely on it: its pictures are hidden when the answer comes.
        tell(await service.do(home, command, told=None if wanted.private is None else EVERYBODY))
        await service.visible(home)
        return render(await own())

    @routes.add(
        "POST", "/v1/users/me/password", "Change the password; other sessions end", body=NewPassword,
        answers={204: None}, limit="sign_in", problems=("wrong_credentials", "invalid_password"),
        idempotent_by_key=True,
    )  # fmt: skip
    async def change_password() -> Response:
        wanted = await read_json(request, NewPassword)
        check_password(wanted.new)
        who = signed()
        async with admission.once(who.user, msgspec.json.encode(wanted)) as retry:
            try:
                changed_ms = await checked_again(who.user, wanted.current)
            except Problem as problem:
                # A retry of what was done names a password that is no longer the current one. What was
                # remembered of it answers; if nothing was, the command is refused.
                if retry is None or problem.code != "wrong_credentials":
                    raise
                changed_ms = NEVER_MS
            password_hash = await parts.passwords.hash(wanted.new)
            command = sessions.ChangePassword(who.user, who.session, changed_ms, password_hash)
            home = partition_of(who.user)
            try:
                tell(await service.do(home, command, by=who.user, retry=retry, grows=False))
            except Refused as refusal:
                if refusal.code == "unauthenticated":  # the password changed while this one was checked
                    raise Problem("wrong_credentials") from None
                raise
        return empty()

    @routes.add(
        "POST", "/v1/users/me/delete", "Delete the account and all that it made", body=Goodbye,
        answers={202: None}, limit="sign_in", problems=("wrong_credentials",), idempotent_by_key=True,
    )  # fmt: skip
    async def delete_account() -> Response:
        wanted = await read_json(request, Goodbye)
        who = signed()
        async with admission.once(who.user, msgspec.json.encode(wanted)):
            # Needs no memory: a retry finds the session ended, which says that it was done.
            await checked_again(who.user, wanted.password)
            tell(await service.do(partition_of(who.user), deletion.DeleteAccount(who.user), grows=False))
        return empty(202)

    @routes.add(
        "GET", "/v1/users/<id:user_id>", "A user", answers={200: UserView}, signed_in=False,
        problems=("not_found",),
    )  # fmt: skip
    async def user(user_id: int) -> Response:
        with service.read() as rows:
            return render(people.user_view(rows, user_id, viewer(), renderer.avatar_url))

    @routes.add(
        "GET", "/v1/users/by-name/<username>", "A user, by name", answers={200: UserView}, signed_in=False,
        problems=("not_found",),
    )  # fmt: skip
    async def user_by_name(username: str) -> Response:
        with service.read() as rows:
            found = named(parts, rows, username)
            views = people.user_views(rows, [found], viewer(), renderer.avatar_url) if found else []
        if not views:  # nobody has the name, or who has it is hidden: one answer, without an id
            raise Problem("not_found")
        return render(views[0])

    @routes.add(
        "GET", "/v1/users", "The directory: public accounts, newest first", query=PageQuery,
        answers={200: Users}, signed_in=False, problems=("invalid_cursor",),
    )  # fmt: skip
    async def directory() -> Response:
        query = asked()
        after = opened(parts, query, "directory", int)
        with service.read() as rows:
            limit = query.limit or 30
            page = listings.directory(rows, parts.partitions, viewer(), after, limit, renderer.avatar_url)
        return render(Users(page.users, sealed(parts, page.after, "directory")))

    async def own() -> UserView:
        user_id = signed().user
        with service.read() as rows:
            return people.user_view(rows, user_id, user_id, renderer.avatar_url)

    async def checked_again(user_id: int, password: str) -> int:
        session_of.count_sign_in(f"user:{user_id}:password")
        return await session_of.check(user_id, password)

    return routes


def named(parts: Parts, rows: Reader, username: str) -> int | None:
    """Who has the name; None for what cannot be one, too."""
    try:
        texts.check_username(username)
    except Refused:
        return None
    return people.user_named(rows, parts.partition_of_name(username), username)


def check_password(password: str) -> None:
    if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
        raise Problem("invalid_password", f"a password has {PASSWORD_MIN} to {PASSWORD_MAX} characters")


def check_texts(wanted: NewUser) -> None:
    """Refuse what the state machine would before the password is hashed, which is dear."""
    try:
        texts.check_username(wanted.username)
        texts.check_display_name(wanted.display_name)
    except Refused as refusal:
        raise Problem("invalid_field", refusal.detail) from None


def avatar_of(wanted: Profile) -> int:
    match wanted.avatar_media_id:
        case msgspec.UNSET:
            return accounts.AVATAR_KEPT
        case None:
            return accounts.AVATAR_NONE
        case str() as written:
            try:
                return parse_id(written) or NOBODYS_MEDIA
            except IdError as wrong:
                raise Problem("invalid_field", f"avatar_media_id: {wrong}") from None
    raise AssertionError("unreachable")
