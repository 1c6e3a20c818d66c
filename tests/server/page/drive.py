"""What a person does on the page, and what is seen of it."""

import base64
import shutil

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"

_PIXELS = """id => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 32;
  const context = canvas.getContext('2d');
  context.drawImage(document.getElementById(id), 0, 0, 32, 32);
  return [...context.getImageData(0, 0, 32, 32).data];
}"""


# Chromium tells nobody the bodies of forms with files: fetch itself is asked.
_SPY = """
  const original = window.fetch;
  window.sent = [];
  window.fetch = (path, options) => {
    if (options?.body instanceof FormData) window.sent.push([...options.body]);
    return original(path, options);
  };"""
_LAST_FORM = """async () => {
  const text = async blob => {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    return {base64: btoa(Array.from(bytes, each => String.fromCharCode(each)).join(''))};
  };
  return Promise.all(window.sent.at(-1).map(async ([name, value]) =>
    [name, value instanceof Blob ? await text(value) : value]));
}"""


class Drive:
    """A page, whose drawing is addressed by fractions of its width and height."""

    def __init__(self, page, address):
        self.page = page
        self.address = address
        self.asked = []  # the requests for pictures
        self.in_flight, self.most_in_flight = 0, 0
        self.expected = ()  # what the console may say in this test
        self._errors = []
        page.add_init_script(_SPY)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.on("request", self._request)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)

    def _console(self, message):
        if message.type in ("error", "warning"):
            self._errors.append(message.text)

    def _request(self, request):
        assert request.url.startswith((self.address, "data:", "blob:")), request.url
        if "/v1/images/" in request.url:
            self.asked.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def _ended(self, request):
        self.in_flight -= "/v1/images/" in request.url

    def complaints(self):
        return [each for each in self._errors if not any(word in each for word in self.expected)]

    def point(self, x, y):
        box = self.page.locator("#layer").bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def stroke(self, *points, steps=8):
        mouse = self.page.mouse
        mouse.move(*self.point(*points[0]))
        mouse.down()
        for each in points[1:]:
            mouse.move(*self.point(*each), steps=steps)
        mouse.up()

    def tool(self, name):
        self.page.locator(f"[name=tool][value={name}]").check(force=True)

    def colour(self, name):
        self.page.get_by_role("radio", name=name, exact=True).check(force=True)

    def fill(self, colour, x=0.5, y=0.5):
        self.colour(colour)
        self.tool("fill")
        self.page.mouse.click(*self.point(x, y))
        self.tool("brush")

    def width(self, thousandths):
        self.page.locator("#width").fill(str(thousandths))

    def settled(self):
        """Wait until the newest input has its picture."""
        self.page.wait_for_selector("#view[aria-busy=false] #picture:not([hidden], .preview)")
        return self

    def changed(self, before):
        """Wait until the picture is another, and the newest."""
        self.page.wait_for_function("s => document.getElementById('picture').src !== s", arg=before)
        return self.settled()

    @property
    def source(self):
        return self.page.evaluate("() => document.getElementById('picture').src")

    def picture(self):
        return self.page.evaluate(_PIXELS, "picture")

    def drawing(self):
        return self.page.evaluate(_PIXELS, "layer")

    def trouble(self):
        found = self.page.locator("#trouble")
        found.wait_for(state="visible")
        return found.inner_text()

    def saved(self):
        """The file that the download button gives: its name and its bytes."""
        with self.page.expect_download() as waiting:
            self.page.click("#save")
        return waiting.value.suggested_filename, waiting.value.path().read_bytes()

    def form(self):
        """The newest form that was sent: texts, and the bytes of files."""
        return {
            name: value if isinstance(value, str) else base64.b64decode(value["base64"])
            for name, value in self.page.evaluate(_LAST_FORM)
        }
