// The loop behind live drawing: one job at a time, the newest input next.

/**
 * `make(signal)` makes a picture of the input as it is when it is called, and shows it;
 * `onBusy(bool)` is told of every start and end, `onError(error)` of what `make` throws.
 */
export class Live {
  #make;
  #onBusy;
  #onError;
  #job = null;
  #stale = false;
  #start = 0;
  #timer = 0;

  constructor(make, onBusy, onError) {
    this.#make = make;
    this.#onBusy = onBusy;
    this.#onError = onError;
  }

  /**
   * The input changes still: what runs may finish, so that the picture follows the pen. Nothing is
   * begun for so many milliseconds: a short stroke's picture would wait for the end of that step.
   */
  follow(milliseconds) {
    this.#stale = true;
    if (!this.#job) this.#start ||= setTimeout(() => this.#run(), milliseconds);
  }

  /** The input has changed: what runs is of no use any more. */
  renew() {
    this.#stale = true;
    if (this.#job) this.#job.abort();
    else this.#run();
  }

  /** The same in a while; for text that is being written, and for servers that are busy. */
  renewLater(milliseconds) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.renew(), milliseconds);
  }

  /** Nothing is made until the input changes again. */
  stop() {
    clearTimeout(this.#timer);
    this.#stale = false;
    this.#job?.abort();
  }

  async #run() {
    clearTimeout(this.#start);
    this.#start = 0;
    this.#onBusy(true);
    while (this.#stale) {
      clearTimeout(this.#timer);
      this.#stale = false;
      this.#job = new AbortController();
      const { signal } = this.#job;
      try {
        await this.#make(signal);
      } catch (error) {
        if (!signal.aborted) this.#onError(error);
      }
    }
    this.#job = null;
    this.#onBusy(false);
  }
}
