"""Agents that read blobs in every way, and emit others."""

from __future__ import annotations

import hashlib
from typing import Any

from contract_app import FAST, journal

from pipeline import Blob, Context, Payload, Pipeline

app = Pipeline("blobs")


class Report(Payload, type="report.ready"):
    pdf: Blob
    pages: list[Blob] = []


class Copy(Payload, type="copy.made"):
    of: Blob
    own: Blob


class Summary(Payload, type="summary.made"):
    of: Blob


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@app.agent(on=Report, retry=FAST)
def reader(report: Report, ctx: Context) -> None:
    journal("reader", ctx)
    with report.pdf.open() as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    journal("has-read", ctx, [found, *(digest(page.read()) for page in report.pages)])


@app.agent(on=Report, retry=FAST)
async def copier(report: Report, ctx: Context) -> Summary:
    content = bytearray()
    async for chunk in report.pdf.chunks():
        content += chunk
    ctx.publish(Copy(of=report.pdf, own=Blob(bytes(content[::-1]))))
    return Summary(of=report.pdf)


@app.agent(on=Copy, retry=FAST)
async def checker(copy: Copy, ctx: Context) -> None:
    journal("checker", ctx, [digest(await copy.of.aread()), digest((await copy.own.aread())[::-1])])


@app.agent(on=Summary, retry=FAST)
def summarizer(summary: Summary, ctx: Context) -> None:
    journal("summarizer", ctx, digest(summary.of.read()))


@app.agent(on="report.untyped")
def untyped(data: Any, ctx: Context) -> None:
    journal("untyped", ctx, digest(app.blobs.of(data["pdf"]).read()))
