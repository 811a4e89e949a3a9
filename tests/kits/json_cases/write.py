"""Writes the cases beside this file: ``python tests/kits/json_cases/write.py``."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent

ACCEPTED = {
    "array-empty": b"[]",
    "array-nested-32": b"[" * 32 + b"]" * 32,
    "false": b"false",
    "key-empty": b'{"": 1}',
    "keys-that-differ-by-case": b'{"a": 1, "A": 2}',
    "keys-that-differ-by-normal-form": '{"\u00e9": 1, "e\u0301": 2}'.encode(),
    "key-twice-in-two-tables": b'[{"a": 1}, {"a": 2}]',
    "null": b"null",
    "number-exponent": b"-1.5E+2",
    "number-fraction": b"0.25",
    "number-largest-long": b"9223372036854775807",
    "number-negative-zero": b"-0",
    "number-tiny": b"1e-400",
    "number-zero": b"0",
    "object-empty": b"{}",
    "string-delete-character": b'"\x7f"',
    "string-emoji": '"\U0001f600"'.encode(),
    "string-escapes": b'"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041"',
    "string-escaped-nul": b'"\\u0000"',
    "string-hex-in-both-cases": b'"\\u00aF"',
    "string-noncharacter": b'"\xef\xbf\xbf"',
    "string-surrogate-pair": b'"\\ud83d\\ude00"',
    "true": b"true",
    "white-space": b' \t\r\n{ "a" : [ 1 , 2 ] } \t\r\n',
}

REFUSED = {
    "array-comma-first": b"[, 1]",
    "array-comma-last": b"[1,]",
    "array-comma-twice": b"[1,,2]",
    "array-nested-33": b"[" * 33 + b"]" * 33,
    "array-no-comma": b"[1 2]",
    "array-not-closed": b"[1",
    "array-closed-by-brace": b"[1}",
    "byte-order-mark": b"\xef\xbb\xbf{}",
    "comment-block": b'{"a": /* one */ 1}',
    "comment-hash": b'{"a": 1} # one',
    "comment-line": b'{"a": 1} // one',
    "empty": b"",
    "equals-for-colon": b'{"a" = 1}',
    "key-twice": b'{"a": 1, "a": 2}',
    "key-twice-by-escape": b'{"a": 1, "\\u0061": 2}',
    "key-twice-null-last": b'{"limit": 30, "limit": null}',
    "key-twice-the-same": b'{"a": 1, "a": 1}',
    "key-unquoted": b"{a: 1}",
    "literal-infinity": b"Infinity",
    "literal-nan": b"NaN",
    "literal-in-capitals": b"TRUE",
    "literal-cut": b"tru",
    "literal-undefined": b"undefined",
    "number-comma": b"1,5",
    "number-dot-first": b".5",
    "number-dot-last": b"5.",
    "number-exponent-empty": b"1e",
    "number-hexadecimal": b"0x10",
    "number-infinite": b"1e400",
    "number-minus-alone": b"-",
    "number-minus-twice": b"--1",
    "number-octal": b"016",
    "number-octal-negative": b"-016",
    "number-plus": b"+1",
    "number-suffix": b"30f",
    "number-underscore": b"1_000",
    "number-full-width": "\uff11".encode(),
    "object-comma-last": b'{"a": 1,}',
    "object-key-alone": b'{"a"}',
    "object-key-number": b"{1: 2}",
    "object-nested-33": b'{"a":' * 33 + b"1" + b"}" * 33,
    "object-no-colon": b'{"a" 1}',
    "object-no-value": b'{"a":}',
    "object-not-closed": b'{"a": 1',
    "object-semicolon": b'{"a": 1; "b": 2}',
    "string-control-character": b'"\x01"',
    "string-escape-unknown": b'"\\x41"',
    "string-escape-short": b'"\\u12"',
    "string-escape-no-hex": b'"\\u12g4"',
    "string-escape-sign": b'"\\u+123"',
    "string-line-end": b'"a\nb"',
    "string-not-closed": b'"a',
    "string-single-quotes": b"'a'",
    "string-surrogate-first-half": b'"\\ud83d"',
    "string-surrogate-halves-exchanged": b'"\\ude00\\ud83d"',
    "string-surrogate-second-half": b'"\\ude00"',
    "string-tab": b'"a\tb"',
    "trailing-brace": b'{"a": 1}}',
    "trailing-nul": b"{}\0",
    "trailing-second-value": b"{} {}",
    "utf16": '{"a": 1}'.encode("utf-16-le"),
    "utf8-continuation-alone": b'"\x80"',
    "utf8-cut": b'"\xe2\x82"',
    "utf8-encoded-surrogate": b'"\xed\xa0\x80"',
    "utf8-overlong-slash": b'"\xc0\xaf"',
    "utf8-too-large": b'"\xf4\x90\x80\x80"',
    "white-space-form-feed": b"{}\x0c",
    "white-space-no-break": "\u00a0{}".encode(),
    "white-space-only": b" \n",
}


def files() -> dict[Path, bytes]:
    """Content by path."""
    groups = {"accepted": ACCEPTED, "refused": REFUSED}
    return {HERE / group / f"{name}.json": text for group, cases in groups.items() for name, text in cases.items()}


def main() -> None:
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text)


if __name__ == "__main__":
    main()
