"""Pages as a browser reads them."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, ids and text of a page; complains of a tag that is never closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br", "source"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.tags if attrs.get(name)]


def stands_alone(text, page):
    """Complains of what a page would fetch, of ids that occur twice, and of references that lead nowhere."""
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert all(src.startswith("data:image/") for src in page.attributes("src"))
    assert all(source.startswith("data:image/") for source in page.attributes("srcset"))
    links = page.attributes("href") + page.attributes("xlink:href")
    assert all(href.startswith("#") for href in links)
    targets = re.findall(r"url\(([^)]*)\)", text)
    assert all(target.startswith("#") for target in targets)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    wanted = {href[1:] for href in links} | {target[1:] for target in targets}
    assert wanted <= set(ids)
