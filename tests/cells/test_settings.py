"""Settings: TOML < environment < flags; what is wrong is named, with a near match."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.settings import Settings, load_settings
from cells.settings_schema import FIELDS, init_text
from engine.errors import Misconfigured
from topics.urls import HBasePlace, KafkaPlace, MemoryPlace, RedisPlace

WEEK_MS = 7 * 24 * 3_600_000


def load(folder: Path, text: str | None = None, environment: dict[str, str] | None = None,
         **flags: object) -> Settings:  # fmt: skip
    if text is not None:
        (folder / "firecell.toml").write_text(text)
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(environment=environment or {}, folder=folder, flags=named)


def test_defaults_without_a_file(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.file is None
    assert settings.data.folder == tmp_path / "data"
    assert settings.firehose.folder == tmp_path / "data" / "firehose"
    assert (settings.firehose.partitions, settings.firehose.retention_ms) == (32, WEEK_MS)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8080)
    assert list(settings.cells) == ["c1"]
    assert settings.cell("c1").folder == tmp_path / "data" / "c1"
    assert {origin.source for origin in settings.origins.values()} == {"default"}


def test_init_text_equals_the_defaults(tmp_path: Path) -> None:
    without = load(tmp_path)
    written = load(tmp_path, init_text())
    for part in ("firehose", "data", "http", "tokens", "cells"):
        assert getattr(written, part) == getattr(without, part), part
    given_names = {name for name, origin in written.origins.items() if origin.source != "default"}
    assert given_names == set(without.origins) - {"cells.c1.group"}
    assert init_text().count("#") >= len(FIELDS)
    assert tomllib.loads(init_text())["http"]["port"] == 8080
    assert all(len(line) <= 100 for line in init_text().splitlines())


def test_environment_over_file_and_flags_over_both(tmp_path: Path) -> None:
    text = "[http]\nport = 1\n[firehose]\npartitions = 4\nretention='12h'"
    environment = {"FIRECELL_HTTP__PORT": "2", "FIRECELL_FIREHOSE__PARTITIONS": "8",
                   "FIRECELL_URL": "http://not-a-setting", "OTHER__X": "1"}  # fmt: skip
    settings = load(tmp_path, text, environment, http__port=3, http__host=None)
    assert settings.http.port == 3
    assert settings.firehose.partitions == 8
    assert settings.firehose.retention_ms == 12 * 3_600_000
    assert settings.origins["http.port"] == (3, "flag")
    assert settings.origins["firehose.partitions"].source.endswith("FIRECELL_FIREHOSE__PARTITIONS")
    assert settings.origins["firehose.retention"].source == str(tmp_path / "firecell.toml")


def test_a_named_file_and_paths_relative_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "x.toml").write_text(
        '[data]\nfolder = "var"\n[cells.a]\n[cells.b]\nstore = "embedded:/b"'
    )
    for settings in (
        load_settings(folder / "x.toml", environment={}, folder=tmp_path),
        load_settings(environment={"FIRECELL_CONFIG": "etc/x.toml"}, folder=tmp_path),
    ):
        assert settings.data.folder == folder / "var"
        assert settings.firehose.folder == folder / "var" / "firehose"
        assert settings.tokens.file == folder / "var" / "tokens.jsonl"
        assert settings.cell("a").folder == folder / "var" / "a"
        assert settings.cell("b").folder == Path("/b")
    moved = load_settings(folder / "x.toml", environment={}, folder=tmp_path,
                          flags={"data.folder": "here"})  # fmt: skip
    assert moved.data.folder == tmp_path / "here"
    assert moved.firehose.folder == tmp_path / "here" / "firehose"
    with pytest.raises(Misconfigured, match="firecell init"):
        load_settings(Path("nowhere.toml"), environment={}, folder=tmp_path)


def test_urls_of_the_real_parts(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[firehose]\nurl = "kafka://a:9092,b/feed?replication=3"\n[cells.c1]\n'
        'store = "hbase://h:9090/c1?zookeeper=z:2182"\ncache = "redis://:word@r:6379/2"\n'
        '[cells.c2]\nstore = "hbase://h/c2"\n',
    )
    assert settings.firehose.place == KafkaPlace("a:9092,b:9092", "feed", 3)
    with pytest.raises(Misconfigured, match="embedded: firehose"):
        _ = settings.firehose.folder
    c1, c2 = settings.cell("c1"), settings.cell("c2")
    assert c1.place == HBasePlace("h", 9090, "c1", "z:2182")
    assert c2.place == HBasePlace("h", 9090, "c2", "h:2181")
    assert c1.folder == settings.data.folder / "c1"
    assert c1.cache_place == RedisPlace("redis://:word@r:6379/2")
    assert c2.cache_place == MemoryPlace()


def test_cells_from_the_environment(tmp_path: Path) -> None:
    environment = {
        "FIRECELL_CELLS__C1__SHARE": "2.5",
        "FIRECELL_CELLS__C_2__KEEP__INBOX": "forever",
    }
    settings = load(tmp_path, environment=environment)
    assert sorted(settings.cells) == ["c1", "c_2"]
    assert settings.cell("c1").share == 2.5


def test_where_other_gateways_reach_it(tmp_path: Path) -> None:
    assert load(tmp_path).http.url == ""
    for url in ("http://10.0.0.7:8080", "http://gate-1.example", "http://[fe80::1]:80"):
        assert load(tmp_path, f'[http]\nurl = "{url}"').http.url == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[firehose]\nurll = "x"', "did you mean 'firehose.url'"),
        ("[cells.c1]\nshar = 1", "did you mean 'cells.c1.share'"),
        ("[htpp]\nport = 1", "did you mean 'http.port'"),
        ('[http]\nurl = "https://h:1"', "not like http://host:8080"),
        ('[http]\nurl = "http://h:1/x"', "not like http://host:8080"),
        ("zzz = 1", "sections are"),
        ("[cells]\nc1 = 1", r"a cell is a table, \[cells.c1\]"),
        ("[cells.C1]", "a cell's name"),
        ("[cells._]", "a cell's name"),
        ("[cells." + "a" * 33 + "]", "a cell's name"),
        ('[cells."a.b"]', "unknown setting"),
        ('[firehose]\nurl = "kafka://h:9092"', r"firehose\.url: topic ''.*kafka://host:9092/topic"),
        ('[firehose]\nurl = "kafka://h:x/f"', "is no host:port"),
        ('[firehose]\nurl = "kafka://h/f?replicas=3"', "known are replication"),
        ('[firehose]\nurl = "kafka://h/f?replication=9"', "from 1 to 7"),
        ('[firehose]\nurl = "hbase://h:9090/c"', "embedded:FOLDER or kafka://"),
        ('[cells.c1]\nstore = "hbase://h:9090/"', r"cells\.c1\.store: name ''"),
        ('[cells.c1]\nstore = "kafka://h:9092/c"', "embedded:FOLDER or hbase://"),
        ('[cells.c1]\ncache = "redis://h:6379/x"', "the database is a number"),
        ('[cells.c1]\ncache = "disk:"', "memory: or redis://"),
        (
            '[cells.a]\nstore = "hbase://h:9090/c"\n[cells.b]\nstore = "hbase://h:9090/c"',
            "already used by cell 'a'",
        ),
        ('[cells.c1]\ngroup = "east"', "comes? with the relay"),
        ('[cells.c1]\nkeep = { inbox = "7d" }', "keeps everything"),
        ('[firehose]\nurl = "embedded:"', "embedded:FOLDER"),
        ('[cells.a]\n[cells.b]\nstore = "embedded:./data/a"', "already used by cell 'a'"),
        ('[cells.a]\nstore = "embedded:./data/firehose"', "already used by the firehose"),
        ("[firehose]\npartitions = 0", "from 1 to 1024"),
        ("[firehose]\npartitions = true", "no whole number"),
        ("[firehose]\nnode = 1024", "from 0 to 1023"),
        ('[firehose]\nretention = "week"', "no duration"),
        ('[firehose]\nretention = "1s"', "less than 60s"),
        ("[http]\nport = 65536", "from 0 to 65535"),
        ("[cells.c1]\nshare = 0", "no number above 0"),
        ("[cells.c1]\nshare = inf", "no number above 0"),
        ("[data]\nfolder = 3", "no text"),
        ("data = 3", "unknown setting 'data'"),
        ("[firehose", "no TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        load(tmp_path, text)
    assert caught.value.exit_code == 2


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"http\.port.*from environment FIRECELL_HTTP__PORT"):
        load(tmp_path, environment={"FIRECELL_HTTP__PORT": "many"})
    with pytest.raises(Misconfigured, match=r"did you mean 'http\.port'"):
        load(tmp_path, environment={"FIRECELL_HTTP__PROT": "1"})


def test_an_unknown_cell_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="there are: a, b"):
        load(tmp_path, "[cells.b]\n[cells.a]").cell("c")


_VALUE = st.one_of(
    st.integers(),
    st.text(max_size=8),
    st.booleans(),
    st.floats(),
    st.lists(st.integers(), max_size=2),
)


@given(st.sampled_from([*FIELDS, "cells.c1.store", "cells.c1.share", "cells.c1.keep.inbox", "a.b"]),
       _VALUE)  # fmt: skip
def test_any_value_is_taken_or_refused_by_name_fuzz(name: str, value: object) -> None:
    try:
        load_settings(environment={}, folder=Path("/nowhere"), flags={name: value})
    except Misconfigured as error:
        assert name in error.message


def test_snapshots_rarer_than_a_quarter_of_the_retention_are_refused(tmp_path: Path) -> None:
    def every(text: str) -> int:
        lines = f'[firehose]\nretention = "8h"\n[snapshots]\nevery = "{text}"\n'
        return load(tmp_path, lines).snapshots.every_ms

    assert every("auto") == 8 * 3_600_000 // 5
    assert every("never") == 0
    assert every("1h") == 3_600_000
    for text in ("2h", "8h"):
        with pytest.raises(Misconfigured, match="quarter"):
            every(text)
