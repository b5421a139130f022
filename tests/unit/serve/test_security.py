"""Who may ask: keys, and asking without one on this machine."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from seqvis.errors import ConfigError
from serve import make_key
from serve.common.keys import (
    KeyHolder,
    Keys,
    check_local,
    keys_for,
    presented_key,
)


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def keys() -> Keys:
    return Keys(
        [
            KeyHolder(name="alice", sha256=hash_of("alice's key"), scopes=("admin",)),
            KeyHolder(name="bob", sha256=hash_of("bob's key"), scopes=("search",)),
            KeyHolder(name="carol", sha256=hash_of("carol's key"), scopes=("search",)),
        ]
    )


def entry_of(name: str, key: str, **more: object) -> dict[str, object]:
    """An entry of a file of keys."""
    return {"name": name, "sha256": hash_of(key), "scopes": ["translate", "search"], **more}


def write(path: Path, entries: object) -> str:
    path.write_text(yaml.safe_dump(entries))
    return str(path)


class TestKeys:
    def test_a_key_is_its_holders(self, keys: Keys) -> None:
        holder = keys.check("bob's key")
        assert holder is not None
        assert (holder.name, holder.scopes) == ("bob", ("search",))

    @pytest.mark.parametrize(
        "presented",
        [None, "", "bob", "bob's key ", "BOB'S KEY", hash_of("bob's key"), "\udcff", "x" * 10**6],
    )
    def test_anything_else_is_nobodys(self, keys: Keys, presented: str | None) -> None:
        assert keys.check(presented) is None

    def test_a_key_of_absurd_length_is_not_even_hashed(self) -> None:
        for length, accepted in ((512, True), (513, False)):
            keys = Keys([KeyHolder(name="a", sha256=hash_of("x" * length), scopes=("search",))])
            assert (keys.check("x" * length) is not None) == accepted

    @pytest.mark.parametrize("presented", ["alice's key", "carol's key", "nobody's"])
    def test_every_entry_is_compared_in_constant_time_whichever_fits(
        self, keys: Keys, presented: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compared: list[str] = []

        def record(first: str, second: str) -> bool:
            compared.append(second)
            return hmac_compare(first, second)

        hmac_compare = hmac.compare_digest
        monkeypatch.setattr(hmac, "compare_digest", record)
        keys.check(presented)
        assert compared == [holder.sha256 for holder in keys.holders]

    def test_a_file_may_be_yaml_or_json(self, tmp_path: Path) -> None:
        entry = entry_of("dora", "k", sha256=hash_of("k").upper(), requests_per_minute=30)
        (tmp_path / "keys.json").write_text(json.dumps([entry]))
        for path in (write(tmp_path / "keys.yaml", [entry]), str(tmp_path / "keys.json")):
            holder = Keys.load(path).check("k")
            assert holder is not None
            assert holder.requests_per_minute == 30

    def test_all_problems_of_a_file_are_named_at_once(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "keys.yaml",
            [
                entry_of("one", "1", requests_per_minut=5),
                entry_of("two words", "2"),
                entry_of("three", "3", sha256="abc"),
                {"name": "four", "scopes": ["search"]},
                entry_of("five", "5", requests_per_minute=0),
                entry_of("six", ""),
                "seven",
                entry_of("eight", "8", scopes=["serach"]),
                entry_of("nine", "9", scopes=[]),
                entry_of("ten", "10", admin=True),
            ],
        )
        with pytest.raises(ConfigError) as caught:
            Keys.load(path)
        lines = str(caught.value).splitlines()
        assert len(lines) == 10
        assert all(line.startswith(f"{path}: entry {n}: ") for n, line in enumerate(lines, 1))
        assert "did you mean requests_per_minute?" in lines[0]
        assert "sha256: is needed" in lines[3]
        assert "empty key" in lines[5]
        assert "'write'" in lines[7]
        assert "needs at least one of" in lines[8]
        assert lines[9].endswith("admin: no such key")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "at least one key"),
            ("[]", "at least one key"),
            ("name: alice", "at least one key"),
            ("[", "not valid YAML"),
            ("- name: a\n  admin: false\n  admin: true", "the key admin occurs twice"),
        ],
    )
    def test_a_file_that_is_no_list_of_keys_is_refused(
        self, tmp_path: Path, text: str, said: str
    ) -> None:
        (tmp_path / "keys.yaml").write_text(text)
        with pytest.raises(ConfigError, match=said):
            Keys.load(str(tmp_path / "keys.yaml"))

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read \(no such file"):
            Keys.load(str(tmp_path / "nowhere.yaml"))

    def test_a_name_or_a_key_given_twice_is_refused(self, tmp_path: Path) -> None:
        entries = [
            entry_of("a", "1"),
            entry_of("a", "2"),
            entry_of("b", "2"),
        ]
        with pytest.raises(ConfigError) as caught:
            Keys.load(write(tmp_path / "keys.yaml", entries))
        assert "the name of a " in str(caught.value)
        assert "the key of b " in str(caught.value)

    @pytest.mark.parametrize(
        ("given", "read"),
        [
            ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
            ("2027-01-31 18:00:00", datetime(2027, 1, 31, 18, tzinfo=UTC)),
            ("2027-01-31T18:00:00+02:00", datetime(2027, 1, 31, 16, tzinfo=UTC)),
            ("'2027-01-31'", datetime(2027, 1, 31, tzinfo=UTC)),
            ("null", None),
        ],
    )
    def test_a_key_may_expire_on_a_day_or_at_a_time(
        self, tmp_path: Path, given: str, read: datetime | None
    ) -> None:
        entry = yaml.safe_dump([entry_of("a", "k")]) + f"  expires: {given}\n"
        (tmp_path / "keys.yaml").write_text(entry)
        (holder,) = Keys.load(str(tmp_path / "keys.yaml")).holders
        assert holder.expires == read
        assert not holder.has_expired
        assert KeyHolder.model_validate_json(holder.model_dump_json()) == holder

    @pytest.mark.parametrize("given", ["20270131", "2027", "'2027'", "soon", "2027-02-31", "true"])
    def test_what_is_no_time_is_refused(self, tmp_path: Path, given: str) -> None:
        entry = yaml.safe_dump([entry_of("a", "k")]) + f"  expires: {given}\n"
        (tmp_path / "keys.yaml").write_text(entry)
        with pytest.raises(ConfigError, match=r"keys.yaml: (entry 1: expires|not valid YAML)"):
            Keys.load(str(tmp_path / "keys.yaml"))

    def test_a_holder_does_not_show_its_hash(self, keys: Keys) -> None:
        assert keys.holders[0].sha256 not in repr(keys.holders[0])

    @pytest.mark.parametrize(
        ("authorization", "api_key", "key"),
        [
            ("Bearer abc", None, "abc"),
            ("bearer  abc ", None, "abc"),
            (None, "abc", "abc"),
            ("Bearer abc", "other", "abc"),
            ("Basic dXNlcg==", "abc", "abc"),
            ("Bearer", "abc", "abc"),
            ("Basic dXNlcg==", None, None),
            ("abc", None, None),
            (None, " ", None),
            (None, None, None),
        ],
    )
    def test_the_key_is_found_in_either_header(
        self, authorization: str | None, api_key: str | None, key: str | None
    ) -> None:
        assert presented_key(authorization, api_key) == key


class TestLocalMode:
    @pytest.mark.parametrize(
        ("client", "host", "origin"),
        [
            ("127.0.0.1", "localhost:8000", None),
            ("127.0.0.1", "localhost", "http://localhost"),
            ("127.0.0.1", "localhost", "http://localhost:80"),
            ("127.8.9.1", "127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("::1", "[::1]:8000", "http://[::1]:8000"),
            ("::ffff:127.0.0.1", "LOCALHOST:8000", "HTTP://LocalHost:8000"),
        ],
    )
    def test_this_machine_and_its_own_page_may_ask(
        self, client: str, host: str, origin: str | None
    ) -> None:
        assert check_local(client, host, origin) is None

    @pytest.mark.parametrize(
        "client",
        [None, "", "10.0.0.5", "::ffff:10.0.0.5", "169.254.1.1", "0.0.0.0", "::", "fe80::1%lo",
         "localhost", "127.0.0.1.evil.example", "127.1", "2130706433"],
    )  # fmt: skip
    def test_other_machines_may_not(self, client: str | None) -> None:
        assert check_local(client, "localhost:8000", None) == (
            "without API keys only this machine may ask"
        )

    @pytest.mark.parametrize(
        "host",
        [None, "", "evil.example", "evil.example:8000", "localhost.evil.example", "localhost.",
         "localhost@evil.example", "evil.example#localhost", "localhost:8000@evil.example",
         "localhost:", "localhost:x", "localhost:123456", "localhost\n", " localhost", "[::1",
         "::1", "[::ffff:127.0.0.1]", "127.1", "0x7f.0.0.1", "localhoſt", "0.0.0.0:8000",
         "localhost:८०", "localhost,evil.example"],
    )  # fmt: skip
    def test_a_name_that_only_resolves_to_this_machine_may_not(self, host: str | None) -> None:
        reason = check_local("127.0.0.1", host, None)
        assert reason is not None
        assert "Host header" in reason

    @pytest.mark.parametrize(
        "origin",
        ["", "null", "http://evil.example", "http://localhost:3000", "http://127.0.0.1:8000",
         "https://localhost:8000", "http://localhost.:8000", "http://localhost:8000/",
         "http://localhost:8000@evil.example", "http://user@localhost:8000", "localhost:8000",
         "http://http://localhost:8000", "http://localhost:8000.evil.example",
         "file://", "chrome-extension://localhost:8000", "http://localhost"],
    )  # fmt: skip
    def test_pages_of_other_origins_may_not(self, origin: str) -> None:
        assert check_local("127.0.0.1", "localhost:8000", origin) == (
            "pages of other sites may not ask"
        )

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_pages_of_other_sites_may_not_even_ask_without_an_origin(self, site: str) -> None:
        """As browsers do for pictures, scripts and links."""
        assert check_local("127.0.0.1", "localhost:8000", None, site) == (
            "pages of other sites may not ask"
        )

    @pytest.mark.parametrize("site", [None, "same-origin", "none"])
    def test_the_page_itself_and_typed_addresses_may(self, site: str | None) -> None:
        assert check_local("127.0.0.1", "localhost:8000", None, site) is None

    def test_what_a_proxy_passes_on_may_not(self) -> None:
        reason = check_local("127.0.0.1", "localhost:8000", None, forwarded=True)
        assert reason is not None
        assert "proxy" in reason


class TestStart:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])
    def test_without_keys_loopback_is_served(self, host: str) -> None:
        assert keys_for(None, host) is None

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.5", "example.org"])
    def test_without_keys_nothing_else_is(self, host: str) -> None:
        with pytest.raises(ConfigError, match="needs a file of API keys"):
            keys_for(None, host)

    def test_with_keys_any_host_is_served(self, tmp_path: Path) -> None:
        path = write(tmp_path / "keys.yaml", [entry_of("a", "k")])
        loaded = keys_for(path, "0.0.0.0")
        assert loaded is not None
        assert loaded.check("k") is not None


class TestOldFiles:
    """Files from before there were scopes."""

    @pytest.fixture
    def old(self, tmp_path: Path) -> str:
        plain, admin = entry_of("plain", "1"), entry_of("boss", "2", admin=True)
        for entry in (plain, admin):
            del entry["scopes"]
        return write(tmp_path / "keys.yaml", [plain, admin, entry_of("new", "3")])

    def test_they_are_refused_with_what_to_add(self, old: str) -> None:
        for host in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(ConfigError) as caught:
                keys_for(old, host)
            first, second = str(caught.value).splitlines()
            assert first.startswith(f"{old}: entry 1: plain: has no scopes; ")
            assert "add scopes: [translate, search, write] to" in first
            assert "entry 2: boss: " in second
            assert "scopes: [translate, search, write, admin] in place of admin: true" in second
            assert "--legacy-keys" in first
            assert "legacy_keys: true" in first

    def test_they_keep_their_meaning_if_the_operator_says_so(self, old: str) -> None:
        keys = keys_for(old, "0.0.0.0", legacy=True)
        assert keys is not None
        assert [holder.scopes for holder in keys.holders] == [
            ("translate", "search", "write"),
            ("translate", "search", "write", "admin"),
            ("translate", "search"),
        ]

    def test_other_problems_are_named_all_the_same(self, tmp_path: Path) -> None:
        path = write(tmp_path / "keys.yaml", [{"name": "a", "sha256": "abc", "admn": True}])
        with pytest.raises(ConfigError) as caught:
            Keys.load(path, legacy=True)
        assert [line.split(": ")[2] for line in str(caught.value).splitlines()] == [
            "sha256",
            "admn",
        ]


class TestMakeKey:
    def test_the_entry_lets_the_key_in(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flags = ["--name", "alice", "--requests-per-minute", "60"]
        assert make_key.main(flags) == 0
        printed = capsys.readouterr()
        result = json.loads(printed.out)
        (tmp_path / "keys.yaml").write_text(printed.err)
        holder = Keys.load(str(tmp_path / "keys.yaml")).check(result["key"])
        assert holder is not None
        assert (holder.name, holder.requests_per_minute) == ("alice", 60)
        assert holder.scopes == ("translate", "search")
        assert result["key"] not in printed.err

    def test_the_scopes_are_those_that_are_asked_for(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_key.main(["--name", "a", "--scope", "write", "--scope", "admin"])
        (entry,) = yaml.safe_load(capsys.readouterr().err)
        assert entry["scopes"] == ["write", "admin"]
        assert make_key.main(["--name", "a", "--scope", "all"]) == 2
        assert "--scope" in capsys.readouterr().err

    def test_a_key_expires_when_it_is_asked_to(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert make_key.main(["--name", "a", "--expires", "2100-01-31"]) == 0
        (entry,) = yaml.safe_load(capsys.readouterr().err)
        assert KeyHolder(**entry).expires == datetime(2100, 1, 31, tzinfo=UTC)
        assert make_key.main(["--name", "a", "--expires", "2020-01-31"]) == 2
        assert "2020-01-31 00:00:00+00:00 is over already" in capsys.readouterr().err
        assert make_key.main(["--name", "a", "--expires", "2100"]) == 2
        assert "--expires: needs a date" in capsys.readouterr().err

    def test_two_keys_differ_and_are_long(self, capsys: pytest.CaptureFixture[str]) -> None:
        made = []
        for _ in range(2):
            make_key.main(["--name", "a"])
            made.append(json.loads(capsys.readouterr().out)["key"])
        assert made[0] != made[1]
        assert min(map(len, made)) >= 43  # 256 random bits

    def test_a_bad_name_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert make_key.main(["--name", "two words"]) == 2
        printed = capsys.readouterr()
        assert "--name" in printed.err
        assert not printed.out
