"""Files over the wire, through the SDK that clients use."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from tests.audit import PROGRAMS, Watch
from tests.serve.conftest import CSV, World, chat_rows

ANCHOR = "expires_after[anchor]"
FORM = {"content-type": "multipart/form-data; boundary=x"}
LINE = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}).encode()


def upload(world: World, content: bytes, name: str = "train.jsonl", purpose: str = "fine-tune") -> Any:
    return world.sdk().files.create(file=(name, io.BytesIO(content)), purpose=purpose)  # type: ignore[arg-type]


def test_a_file_goes_round_from_create_to_delete(world: World) -> None:
    client, content = world.sdk(), chat_rows()
    made = upload(world, content)
    assert made.id.startswith("file-")
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(content), "train.jsonl", "fine-tune")
    assert client.files.wait_for_processing(made.id).status == "processed"
    assert client.files.retrieve(made.id) == made
    assert [file.id for file in client.files.list()] == [made.id]
    assert client.files.content(made.id).read() == content
    deleted = client.files.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "file", True)
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve(made.id)
    assert caught.value.param == "id"
    assert caught.value.code is None
    assert caught.value.type == "invalid_request_error"
    assert f"No such File object: {made.id}" in caught.value.message


def test_files_are_listed_page_by_page_in_both_orders_and_by_purpose(world: World) -> None:
    client = world.sdk()
    ids = [upload(world, LINE).id for _ in range(3)] + [upload(world, b"{}", purpose="batch").id]
    assert [file.id for file in client.files.list(limit=1)] == ids[::-1]
    assert [file.id for file in client.files.list(limit=3, order="asc")] == ids
    assert [file.id for file in client.files.list(purpose="batch")] == ids[3:]
    page = world.http.get("/v1/files", params={"limit": 2}).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[3], ids[2], True)
    empty = world.http.get("/v1/files", params={"purpose": "evals"}).json()
    assert empty == {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up", "purpose=%00"])
def test_a_bad_query_of_the_list_is_a_400_that_names_it(kept: World, query: str) -> None:
    answer = kept.http.get(f"/v1/files?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.split("=")[0]


def test_the_expiry_comes_in_brackets_and_is_kept(world: World) -> None:
    expires: Any = {"anchor": "created_at", "seconds": 3600}
    made = world.sdk().files.create(file=("a.jsonl", LINE), purpose="fine-tune", expires_after=expires)
    assert made.expires_at == made.created_at + 3600


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "finetune"}, "purpose"),
        ({"purpose": "fine-tune-results"}, "purpose"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"purpose": "batch", ANCHOR: "created_at", "expires_after[seconds]": "3599"}, "expires_after[seconds]"),
        ({"purpose": "batch", ANCHOR: "created_at", "expires_after[seconds]": "2592001"}, "expires_after[seconds]"),
        ({"purpose": "ba\0tch"}, "purpose"),
        ({"purpose": "x" * 9000}, "purpose"),
    ],
)  # fmt: skip
def test_a_bad_field_is_a_400_that_names_it_and_leaves_nothing_behind(
    kept: World, fields: dict[str, str], param: str
) -> None:
    answer = kept.http.post("/v1/files", data=fields, files={"file": ("a.jsonl", LINE)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert kept.http.get("/v1/files").json()["data"] == []
    assert list((kept.server.store.data / "blobs").iterdir()) == []


def test_unknown_fields_are_ignored_with_a_word(kept: World) -> None:
    answer = kept.http.post("/v1/files", data={"purpose": "batch", "colour": "red"}, files={"file": ("a", b"x")})
    assert answer.status_code == 200
    assert answer.headers["x-weft-warning"] == "ignored unknown field: colour"
    kept.sdk().files.delete(answer.json()["id"])


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "application/json"}, b'{"purpose": "fine-tune"}'),
        ({"content-type": "multipart/form-data"}, b"--x--"),
        ({"content-type": "multipart/form-data; boundary=x"}, b""),
        ({"content-type": "multipart/form-data; boundary=x"}, b"garbage"),
        ({"content-type": "multipart/form-data; boundary=" + "x" * 5000}, b"garbage"),
        (
            {"content-type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ncut off',
        ),
        (FORM, b"--x\r\nContent-Type: text/plain\r\n\r\nhi\r\n--x--\r\n"),
        (
            {"content-type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
        ),
        (
            {"content-type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n1\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="b"\r\n\r\n2\r\n--x--\r\n',
        ),
    ],
    ids=["json", "no boundary", "empty", "garbage", "long boundary", "cut off", "no name", "no file", "two files"],
)  # fmt: skip
def test_a_form_that_is_none_is_a_400_and_leaves_nothing_half_there(
    kept: World, headers: dict[str, str], body: bytes
) -> None:
    answer = kept.http.post("/v1/files", headers=headers, content=body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert kept.http.get("/v1/files").json()["data"] == []
    assert list((kept.server.store.data / "tmp").iterdir()) == []


def test_the_file_may_come_before_its_fields(world: World) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + LINE + b"\r\n"
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--x--\r\n'
    )
    answer = world.http.post(
        "/v1/files", headers={"content-type": "multipart/form-data; boundary=x"}, content=iter([body[:90], body[90:]])
    )
    assert answer.status_code == 200, answer.text
    assert world.sdk().files.content(answer.json()["id"]).read() == LINE


def test_a_file_at_the_limit_is_taken_and_one_byte_more_is_a_413(make_world: Callable[..., World]) -> None:
    """T28; its long form is in test_floods.py."""
    world = make_world(file_mb=1)
    line = LINE + b"\n"
    whole = line * ((1 << 20) // len(line))
    whole += b"\n" * ((1 << 20) - len(whole))
    assert upload(world, whole).bytes == 1 << 20
    with pytest.raises(openai.APIStatusError) as caught:
        upload(world, whole + b"\n")
    assert caught.value.status_code == 413
    answer = world.http.post("/v1/files", content=b"", headers={"content-length": str(3 << 20)})
    assert answer.status_code == 413
    assert len(list((world.server.store.data / "blobs").iterdir())) == 1


def test_an_upload_is_never_held_in_memory(live: Callable[..., Any]) -> None:
    _, address = live()
    size, piece = 96 << 20, os.urandom(1 << 20)
    peak = threading.Event()

    def body() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(size // len(piece)):
            yield piece
        yield b"\r\n--x--\r\n"
        peak.set()

    before = resident()
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{address}/v1/files", content=body(), headers=headers, timeout=60)
    assert answer.json()["bytes"] == size
    assert resident() - before < 48 << 20


def resident() -> int:
    """Bytes of memory that this process has at most had."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


WRONG = {
    "empty": b"",
    "blank": b" \n\n\t\n",
    "bom alone": b"\xef\xbb\xbf",
    "gzip": gzip.compress(LINE),
    "zip": b"PK\x03\x04" + b"\0" * 50,
    "parquet": b"PAR1" + b"\x15\x04" * 40,
    "excel": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 50,
    "bzip2": b"BZh91AY&SY" + b"\0" * 30,
    "xz": b"\xfd7zXZ\0" + b"\0" * 30,
    "zstd": b"\x28\xb5\x2f\xfd" + b"\1" * 30,
    "7zip": b"7z\xbc\xaf\x27\x1c" + b"\0" * 30,
    "sqlite": b"SQLite format 3\0" + b"\0" * 60,
    "arrow": b"ARROW1\0\0" + b"\0" * 60,
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "png": b"\x89PNG\r\n\x1a\n" + b"\0" * 60,
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "elf": b"\x7fELF\x02\x01\x01" + b"\0" * 60,
    "pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.",
    "pickle that runs": b"cos\nsystem\n(S'touch canary'\ntR.",
    "script": b"#!/bin/sh\ntouch canary\n",
    "python": b"import os; os.system('touch canary')\n",
    "yaml that runs": b"!!python/object/apply:os.system ['touch canary']\n",
    "pickle 5": b"\x80\x05\x95\x10\0\0\0\0\0\0\0}\x94.",
    "utf-16": "\ufeff{}".encode("utf-16-le"),
    "utf-32": "\ufeff{}".encode("utf-32-le"),
    "zeros": b"\0" * 200,
    "csv": b"text,label\nhello,greeting\n",
    "tsv": b"text\tlabel\nhello\tgreeting\n",
    "prose": b"Once upon a time\nthere was a file.\n",
    "html": b"<html><script>alert(1)</script></html>\n",
    "yaml": b"messages:\n  - role: user\n",
    "array": b"[" + LINE + b"]",
    "spread": b'{\n  "messages": []\n}\n',
    "python dict": b"{'messages': []}\n",
    "a list a line": b"[1, 2]\n[3, 4]\n",
    "nan": b'{"messages": NaN}\n',
    "twice the key": b'{"a": 1, "a": 2}\n',
    "too deep": b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}\n",
    "not utf-8": b'{"messages": "\xe9"}\n',
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_training_file_is_judged_by_its_content_when_it_arrives(kept: World, kind: str) -> None:
    """T30: refused with its reason, and nothing of it runs."""
    with (
        Watch(*PROGRAMS) as watch,
        pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl \(.+\)") as caught,
    ):
        upload(kept, WRONG[kind])
    assert caught.value.param == "file" and watch.told == []
    assert list((kept.server.store.data / "blobs").iterdir()) == []


def test_content_decides_and_not_the_name(world: World) -> None:
    assert upload(world, LINE, name="upload").status == "processed"
    assert upload(world, b"\xef\xbb\xbf" + LINE + b"\r\n", name="data.csv").status == "processed"
    long = json.dumps({"messages": [{"role": "user", "content": "x" * 100_000}]}).encode()
    assert upload(world, long).bytes == len(long)


HOSTILE = [
    "../../../etc/passwd", "/etc/passwd", "..\\..\\windows\\win.ini", "C:\\x.jsonl", "a/b/c.jsonl", "~/.ssh/id_rsa",
    "$(touch canary)", "`touch canary`", "; touch canary", "| touch canary", "CON", "NUL", "...", ".", "..",
    " .hidden ", "-rf", "%2e%2e%2fpasswd", "%00.jsonl", "\u202ejsonl.exe", "<script>alert(1)</script>",
    '"quoted".jsonl', "naïve.jsonl", "文件.jsonl", "🐍.jsonl", "a" * 255, "file:///etc/passwd", "http://127.0.0.1/",
    "{{7*7}}", "{0.__class__}", "%s%n", "';--",
]  # fmt: skip


def test_hostile_names_are_labels_and_never_paths(world: World) -> None:
    """T29; over 300 names, and what they open, in test_hostile.py."""
    data = world.server.store.data
    before = {path.name for path in data.iterdir()}
    for name in HOSTILE:
        answer = world.http.post("/v1/files", data={"purpose": "batch"}, files={"file": (name, b"{}")})
        assert answer.status_code == 200, name
        given = world.http.get(f"/v1/files/{answer.json()['id']}/content")
        assert given.headers["content-disposition"].startswith('attachment; filename="')
        assert given.headers["x-content-type-options"] == "nosniff"
        assert all(32 <= ord(c) < 127 for c in given.headers["content-disposition"])
    assert {path.name for path in data.iterdir()} == before
    assert len(list((data / "blobs").iterdir())) == 1


@pytest.mark.parametrize("name", ["", "   ", "a" * 256, "a\x01b", "a\x7fb", "a\nb"])
def test_a_name_that_cannot_be_shown_is_refused(kept: World, name: str) -> None:
    disposition = f'form-data; name="file"; filename="{name}"'.encode()
    body = b"--x\r\nContent-Disposition: " + disposition + b"\r\n\r\n{}\r\n"
    body += b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    answer = kept.http.post("/v1/files", headers={"content-type": "multipart/form-data; boundary=x"}, content=body)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "id", ["file-unknown", "file-%00", "x" * 300, "..", "%2e%2e%2fetc", "file-1%2Fcontent", "%F0%9F%90%8D"]
)
def test_any_text_may_stand_where_an_id_is_expected(kept: World, id: str) -> None:
    for method, path in (("GET", f"/v1/files/{id}"), ("DELETE", f"/v1/files/{id}"), ("GET", f"/v1/files/{id}/content")):
        answer = kept.http.request(method, path)
        assert answer.status_code in (400, 404, 405), (method, path)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_results_are_plain_csv_or_base64_where_a_client_wants_that(make_world: Callable[..., World]) -> None:
    world = make_world()
    sha256, size = world.server.store.blobs.put(iter([CSV]), 1 << 20)
    file = world.server.store.files.create("local", "step_metrics.csv", "fine-tune-results", sha256, size)
    given = world.http.get(f"/v1/files/{file.id}/content")
    assert given.content == CSV
    assert given.headers["content-type"] == "text/csv; charset=utf-8"
    assert given.headers["content-length"] == str(size)
    encoded = world.http.get(f"/v1/files/{file.id}/content?encoding=base64")
    assert base64.b64decode(encoded.content) == CSV
    assert encoded.headers["content-length"] == str(len(encoded.content))
    assert world.http.get(f"/v1/files/{file.id}/content?encoding=rot13").status_code == 400
