// Browsers start no web workers on pages that were opened from the disk. The search of the site runs in one, so here its
// script runs in a hidden frame instead. (The theme would otherwise load such a script from another server.)
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inner = this.frame.contentWindow
      inner.postMessage = data => setTimeout(() => this.onmessage?.({ data }))
      this.ready = new Promise((resolve, reject) => {
        const script = inner.document.createElement("script")
        script.src = url
        script.onload = resolve
        script.onerror = error => {
          this.onerror?.(error)
          reject(error)
        }
        inner.document.body.append(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.onmessage?.({ data }))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
